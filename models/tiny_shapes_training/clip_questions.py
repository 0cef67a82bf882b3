"""Questions about a short clip."""

from __future__ import annotations

from random import Random

from models.tiny_shapes_training.clips import Clip
from models.tiny_shapes_training.phrasing import EMOJI_REQUEST, Turn, ask
from models.tiny_shapes_training.picture_questions import listing
from models.tiny_shapes_training.words import (
    CHINESE_COLOURS,
    CHINESE_DIRECTIONS,
    CHINESE_KINDS,
    DIRECTION_EMOJI,
)

MOTION = "motion"
VIDEO_WORDS = ("video", "clip")


def clip_turn(rng: Random, clip: Clip) -> Turn | None:
    questions = (_what_moved, _direction, _what_happens, _did_it_move, _contents, _count, _chinese, _emoji)
    return rng.choices(questions, (4, 4, 3, 1, 1, 1, 1, 1))[0](rng, clip)


def _what_moved(rng: Random, clip: Clip) -> Turn:
    answer = "nothing" if clip.mover is None else "the " + " ".join(clip.scene.shapes[clip.mover].name)
    return ask(rng, MOTION, ("What moved?", "What moves?", "Which shape moved?", "Which shape moves?",
                             "What is moving?", "What moved in the {video}?", "What moves in the {video}?"),
               answer, video=rng.choice(VIDEO_WORDS))


def _direction(rng: Random, clip: Clip) -> Turn | None:
    if clip.mover is None:
        return None
    shape = clip.scene.shapes[clip.mover]
    name = rng.choice((f"the {shape.kind}", "the " + " ".join(shape.name), "it"))
    if name == f"the {shape.kind}" and clip.scene.count(kind=shape.kind) > 1:
        name = "it"
    return ask(rng, MOTION, ("Which way did {name} move?", "Which way does {name} move?", "Where did {name} move?",
                             "In which direction did {name} move?", "Which direction did {name} move?",
                             "Where does {name} go?", "Which direction does {name} move?"),
               clip.direction, name=name)


def _what_happens(rng: Random, clip: Clip) -> Turn:
    if clip.mover is None:
        answer = "Nothing moves."
    else:
        answer = f"The {' '.join(clip.scene.shapes[clip.mover].name)} moves {clip.direction}."
    return ask(rng, MOTION, ("What happens in the {video}?", "What happens?", "Describe the {video}.",
                             "What happens in this {video}?", "What is happening?"), answer,
               video=rng.choice(VIDEO_WORDS))


def _did_it_move(rng: Random, clip: Clip) -> Turn:
    index = rng.randrange(len(clip.scene.shapes))
    if clip.scene.names[clip.scene.shapes[index].name] > 1:
        index = clip.mover or 0
    name = " ".join(clip.scene.shapes[index].name)
    return ask(rng, MOTION, ("Did the {name} move?", "Does the {name} move?"), "yes" if index == clip.mover else "no",
               name=name)


def _contents(rng: Random, clip: Clip) -> Turn | None:
    if clip.mover is not None:  # the order of a listing is that of places
        return None
    return ask(rng, "contents", ("What is in the {video}?", "What shapes are in the {video}?"), listing(clip.scene),
               video=rng.choice(VIDEO_WORDS))


def _count(rng: Random, clip: Clip) -> Turn:
    kind = rng.choice((None, *(shape.kind for shape in clip.scene.shapes)))
    return ask(rng, "count", ("How many {kind}s are in the {video}?", "How many {kind}s are there?",
                             "How many {kind}s?"),
               str(clip.scene.count(kind=kind)), kind=kind or "shape", video=rng.choice(VIDEO_WORDS))


def _chinese(rng: Random, clip: Clip) -> Turn | None:
    if clip.mover is None:
        return None
    colour, kind = clip.scene.shapes[clip.mover].name
    name = CHINESE_COLOURS[colour] + CHINESE_KINDS[kind]
    if rng.random() < 0.5:
        return ask(rng, "Chinese", ("什么移动了？", "哪个图形移动了？", "视频里什么在移动？"), name)
    return ask(rng, "Chinese", ("它往哪个方向移动？", "{name}往哪个方向移动？"),
               CHINESE_DIRECTIONS[clip.direction], name=name)


def _emoji(rng: Random, clip: Clip) -> Turn | None:
    if clip.mover is None:
        return None
    templates = tuple("Which way did it move?" + request for request in EMOJI_REQUEST)
    return ask(rng, "emoji", templates, DIRECTION_EMOJI[clip.direction])
