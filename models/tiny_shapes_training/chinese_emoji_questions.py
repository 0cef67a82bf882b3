"""Questions in Chinese, and questions that want emoji for an answer: every character of these takes several tokens."""

from __future__ import annotations

from random import Random

from models.tiny_shapes_training.phrasing import EMOJI_REQUEST, Turn, ask
from models.tiny_shapes_training.scenes import Scene
from models.tiny_shapes_training.words import (
    CHINESE_COLOURS,
    CHINESE_KINDS,
    CHINESE_PLACES,
    chinese_shapes,
    colour_emoji,
    joined,
    number_emoji,
    shape_emoji,
)

CHINESE = "Chinese"
EMOJI = "emoji"


def chinese_turn(rng: Random, scene: Scene) -> Turn | None:
    return rng.choice((_chinese_contents, _chinese_count, _chinese_colour, _chinese_place))(rng, scene)


def emoji_turn(rng: Random, scene: Scene) -> Turn | None:
    return rng.choice((_emoji_contents, _emoji_contents, _emoji_count, _emoji_colour))(rng, scene)


def _chinese_contents(rng: Random, scene: Scene) -> Turn:
    parts = [chinese_shapes(number, *name) for name, number in scene.names.items()]
    return ask(rng, CHINESE, ("图片里有什么?", "图中有什么？", "你看到了什么？", "这张图片里有什么？",
                              "请列出图中的图形。"),
               joined(parts, comma="、", last="和") + "。")


def _chinese_count(rng: Random, scene: Scene) -> Turn:
    kind = rng.choice(scene.shapes).kind
    if rng.random() < 0.3:
        return ask(rng, CHINESE, ("有几个图形？", "图中有多少个图形？", "一共有几个图形？"), f"{len(scene.shapes)}个")
    return ask(rng, CHINESE, ("有几个{kind}？", "图中有几个{kind}？", "图片里有多少个{kind}？", "有多少个{kind}？"),
               f"{scene.count(kind=kind)}个", kind=CHINESE_KINDS[kind])


def _chinese_colour(rng: Random, scene: Scene) -> Turn | None:
    single = [shape for shape in scene.shapes if scene.count(kind=shape.kind) == 1]
    if not single:
        return None
    shape = rng.choice(single)
    return ask(rng, CHINESE, ("{kind}是什么颜色？", "{kind}是什么颜色的？", "图中的{kind}是什么颜色？"),
               CHINESE_COLOURS[shape.colour], kind=CHINESE_KINDS[shape.kind])


def _chinese_place(rng: Random, scene: Scene) -> Turn | None:
    shapes = scene.unique()
    if not shapes:
        return None
    shape = rng.choice(shapes)
    return ask(rng, CHINESE, ("{name}在哪里？", "{name}在什么位置？", "{name}在图中的哪里？"),
               CHINESE_PLACES[shape.place], name=CHINESE_COLOURS[shape.colour] + CHINESE_KINDS[shape.kind])


def _emoji_contents(rng: Random, scene: Scene) -> Turn:
    questions = ("What is in the {image}?", "What do you see?", "What is there?", "What shapes are in the {image}?")
    templates = tuple(question + request for question in questions for request in EMOJI_REQUEST)
    return ask(rng, EMOJI, (*templates, "Describe the {image} with emoji.", "Show the {image} as emoji."),
               "".join(shape_emoji(shape.kind, shape.colour) for shape in scene.shapes))


def _emoji_count(rng: Random, scene: Scene) -> Turn:
    kind = rng.choice(scene.shapes).kind
    templates = tuple(question + request for question in ("How many {kind}s are there?", "How many {kind}s?")
                      for request in EMOJI_REQUEST)
    return ask(rng, EMOJI, templates, number_emoji(scene.count(kind=kind)), kind=kind)


def _emoji_colour(rng: Random, scene: Scene) -> Turn | None:
    single = [shape for shape in scene.shapes if scene.count(kind=shape.kind) == 1]
    if not single:
        return None
    shape = rng.choice(single)
    templates = tuple("What colour is the {kind}?" + request for request in EMOJI_REQUEST)
    return ask(rng, EMOJI, templates, colour_emoji(shape.colour), kind=shape.kind)
