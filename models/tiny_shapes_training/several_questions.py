"""Questions about two or three pictures."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from models.tiny_shapes_training.phrasing import Turn, ask
from models.tiny_shapes_training.picture_questions import listing
from models.tiny_shapes_training.scenes import Scene
from models.tiny_shapes_training.words import KINDS, a_shape

TOPIC = "several pictures"
ORDINALS = ("first", "second", "third")


def several_turn(rng: Random, scenes: Sequence[Scene]) -> Turn | None:
    """May return None where the chosen question makes no sense."""
    return rng.choices((_more, _shows, _count_in, _contents_of, _colour_in), (3, 4, 2, 2, 2))[0](rng, scenes)


def _more(rng: Random, scenes: Sequence[Scene]) -> Turn | None:
    # Not a set: its order differs from process to process.
    kind = rng.choice((None, *dict.fromkeys(shape.kind for scene in scenes for shape in scene.shapes)))
    counts = [scene.count(kind=kind) for scene in scenes]
    most = rng.random() < 0.7
    best = max(counts) if most else min(counts)
    if counts.count(best) > 1:
        return None
    words = ("most" if most else "fewest") if len(scenes) > 2 else ("more" if most else "fewer")
    return ask(rng, TOPIC, ("Which {image} has {article}{words} {kind}s?",
                            "Which {image} shows {article}{words} {kind}s?",
                            "In which {image} are there {article}{words} {kind}s?"),
               f"the {ORDINALS[counts.index(best)]}", words=words, article="the " if len(scenes) > 2 else "",
               kind=kind or "shape")


def _shows(rng: Random, scenes: Sequence[Scene]) -> Turn | None:
    index = rng.randrange(len(scenes))
    colour, kind = rng.choice(scenes[index].shapes).name
    things = [thing for thing, where in (
        (a_shape(colour, kind), [bool(scene.count(kind, colour)) for scene in scenes]),
        (f"a {kind}", [bool(scene.count(kind)) for scene in scenes]),
        (f"something {colour}", [bool(scene.count(colour=colour)) for scene in scenes]),
    ) if sum(where) == 1]
    if not things:
        return None
    return ask(rng, TOPIC, ("Which {image} shows {thing}?", "Which {image} has {thing}?",
                            "In which {image} is {thing}?",
                            "Which of the {image}s shows {thing}?", "In which {image} do you see {thing}?"),
               f"the {ORDINALS[index]}", thing=rng.choice(things))


def _count_in(rng: Random, scenes: Sequence[Scene]) -> Turn:
    index = rng.randrange(len(scenes))
    kind = rng.choice((None, rng.choice(KINDS), *(shape.kind for shape in scenes[index].shapes)))
    return ask(rng, TOPIC, ("How many {kind}s are in the {ordinal} {image}?",
                            "How many {kind}s does the {ordinal} {image} show?",
                            "How many {kind}s are there in the {ordinal} {image}?"),
               str(scenes[index].count(kind=kind)), kind=kind or "shape", ordinal=ORDINALS[index])


def _contents_of(rng: Random, scenes: Sequence[Scene]) -> Turn:
    index = rng.randrange(len(scenes))
    return ask(rng, TOPIC, ("What is in the {ordinal} {image}?", "What does the {ordinal} {image} show?",
                            "What do you see in the {ordinal} {image}?"), listing(scenes[index]),
               ordinal=ORDINALS[index])


def _colour_in(rng: Random, scenes: Sequence[Scene]) -> Turn | None:
    index = rng.randrange(len(scenes))
    single = [shape for shape in scenes[index].shapes if scenes[index].count(kind=shape.kind) == 1]
    if not single:
        return None
    shape = rng.choice(single)
    return ask(rng, TOPIC, ("What colour is the {kind} in the {ordinal} {image}?",), shape.colour, kind=shape.kind,
               ordinal=ORDINALS[index])


