"""Questions about one picture. Each function returns a turn, or None where its question makes no sense."""

from __future__ import annotations

from random import Random

from models.tiny_shapes_training.phrasing import SENTENCE_REQUEST, Turn, ask
from models.tiny_shapes_training.scenes import Scene
from models.tiny_shapes_training.words import COLOURS, KINDS, PLACES, a_shape, joined, sentence, some_shapes


def listing(scene: Scene) -> str:
    """"A red circle and two blue squares.", in order of first appearance."""
    return sentence(joined([some_shapes(number, *name) for name, number in scene.names.items()]))


def picture_turn(rng: Random, scene: Scene) -> Turn | None:
    questions, weights = zip(*_QUESTIONS, strict=True)
    return rng.choices(questions, weights)[0](rng, scene)


def contents(rng: Random, scene: Scene) -> Turn:
    return ask(rng, "contents", (
        "What is in the {image}?", "What is in this {image}?", "What's in the {image}?", "What do you see?",
        "What can you see in the {image}?", "What is there?", "What shapes are in the {image}?",
        "Which shapes are there?", "What shapes do you see?", "List the shapes.", "What does the {image} show?",
    ), listing(scene))


def description(rng: Random, scene: Scene) -> Turn:
    parts = joined([f"{a_shape(*shape.name)} in the {shape.place}" for shape in scene.shapes])
    number = len(scene.shapes)
    shapes = "1 shape" if number == 1 else f"{number} shapes"
    return ask(rng, "description", (
        "Describe the {image}.", "Describe this {image}.", "Describe the {image} in detail.", "Describe what you see.",
        "Please describe the {image}.", "Give a full description of the {image}.",
    ), f"The picture shows {shapes} on a {scene.background} background: {parts}.")


def count(rng: Random, scene: Scene) -> Turn:
    kind, colour = _counted(rng, scene)
    number = scene.count(kind, colour)
    thing = " ".join(filter(None, [colour, kind or "shape"]))
    templates = ("How many {things} are there?", "How many {things}?", "How many {things} are in the {image}?",
                 "How many {things} do you see?", "How many {things} are in this {image}?", "Count the {things}.",
                 "How many {things} can you see?")
    if rng.random() < 0.75:
        return ask(rng, "count", templates, str(number), things=f"{thing}s")
    answer = {0: f"There are no {thing}s.", 1: f"There is 1 {thing}."}.get(number, f"There are {number} {thing}s.")
    request = rng.choice(SENTENCE_REQUEST)
    return ask(rng, "count", tuple(template + request for template in templates), answer, things=f"{thing}s")


def colour_of(rng: Random, scene: Scene) -> Turn | None:
    single = [shape for shape in scene.shapes if scene.count(kind=shape.kind) == 1]
    if not single:
        return None
    shape = rng.choice(single)
    templates = ("What colour is the {kind}?", "What is the colour of the {kind}?", "Which colour is the {kind}?",
                 "What colour does the {kind} have?", "What colour is the {kind} in the {image}?")
    if rng.random() < 0.75:
        return ask(rng, "colour", templates, shape.colour, kind=shape.kind)
    request = rng.choice(SENTENCE_REQUEST)
    return ask(rng, "colour", tuple(template + request for template in templates),
               f"The {shape.kind} is {shape.colour}.", kind=shape.kind)


def kind_of(rng: Random, scene: Scene) -> Turn | None:
    single = [shape for shape in scene.shapes if scene.count(colour=shape.colour) == 1]
    if not single:
        return None
    shape = rng.choice(single)
    return ask(rng, "kind", ("What shape is {colour}?", "Which shape is {colour}?", "What is {colour}?",
                             "What is the {colour} shape?", "What kind of shape is {colour}?"),
               shape.kind, colour=shape.colour)


def background(rng: Random, scene: Scene) -> Turn:
    return ask(rng, "colour", ("What colour is the background?", "What is the background colour?",
                               "Which colour is the background?"), scene.background)


def place_of(rng: Random, scene: Scene) -> Turn | None:
    shapes = scene.unique()
    if not shapes:
        return None
    shape = rng.choice(shapes)
    name = shape.kind if scene.count(kind=shape.kind) == 1 and rng.random() < 0.5 else " ".join(shape.name)
    return ask(rng, "place", ("Where is the {name}?", "Where's the {name}?", "Where in the {image} is the {name}?",
                              "Where do you see the {name}?", "Where can I find the {name}?"), shape.place, name=name)


def shape_at(rng: Random, scene: Scene) -> Turn:
    here = {shape.place: shape for shape in scene.shapes}
    place = rng.choice(list(here) if rng.random() < 0.8 else PLACES)
    answer = a_shape(*here[place].name) if place in here else "nothing"
    return ask(rng, "place", ("What is in the {place}?", "What is at the {place}?", "What's in the {place}?",
                              "Which shape is in the {place}?", "What is in the {place} of the {image}?"),
               answer, place=place)


def exists(rng: Random, scene: Scene) -> Turn:
    if rng.random() < 0.5:
        colour, kind = rng.choice(list(scene.names))
    else:  # often a wrong pairing of a colour and a kind that are there
        colour = rng.choice([rng.choice(list(COLOURS)), *(shape.colour for shape in scene.shapes)])
        kind = rng.choice([rng.choice(KINDS), *(shape.kind for shape in scene.shapes)])
    return ask(rng, "yes or no", ("Is there {thing}?", "Is there {thing} in the {image}?", "Do you see {thing}?",
                                  "Can you see {thing}?", "Does the {image} show {thing}?"),
               "yes" if (colour, kind) in scene.names else "no", thing=a_shape(colour, kind))


def relation(rng: Random, scene: Scene) -> Turn | None:
    shapes = scene.unique()
    if len(shapes) < 2:
        return None
    first, second = rng.sample(shapes, 2)
    row, column = (shape.cell // 3 for shape in (first, second)), (shape.cell % 3 for shape in (first, second))
    (first_row, second_row), (first_column, second_column) = row, column
    options = []
    if first_column != second_column:
        options += [("left of", first_column < second_column), ("right of", first_column > second_column)]
    if first_row != second_row:
        options += [("above", first_row < second_row), ("below", first_row > second_row)]
    words, holds = rng.choice(options)
    return ask(rng, "yes or no", ("Is the {first} {words} the {second}?",), "yes" if holds else "no",
               first=" ".join(first.name), words=words, second=" ".join(second.name))


def _counted(rng: Random, scene: Scene) -> tuple[str | None, str | None]:
    """Kind and colour to count, either may be None; now and then of something that is not there."""
    shape = rng.choice(scene.shapes)
    kind = rng.choice(KINDS) if rng.random() < 0.2 else shape.kind
    colour = rng.choice(list(COLOURS)) if rng.random() < 0.2 else shape.colour
    return rng.choices(((kind, None), (None, None), (None, colour), (kind, colour)), (5, 2, 2, 2))[0]


_QUESTIONS = ((contents, 4), (description, 5), (count, 6), (colour_of, 3), (kind_of, 2), (background, 1),
              (place_of, 4), (shape_at, 3), (exists, 2), (relation, 2))
