"""Short clips: scenes in which one shape moves along a row or a column, or none does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import numpy as np

from models.tiny_shapes_training.scenes import Scene, draw, random_scene, random_shape
from models.tiny_shapes_training.words import COLOURS, DIRECTIONS, KINDS


@dataclass(frozen=True)
class Clip:
    """A scene over time.

    Attributes:
        scene: shapes at rest, and the mover where it starts.
        mover: index into scene.shapes, None if nothing moves.
        direction: a name of DIRECTIONS, "" if nothing moves.
        distance: how far it moves, in cells.
        frames: their number.
        fps: frames a second.
    """

    scene: Scene
    mover: int | None
    direction: str
    distance: int
    frames: int
    fps: int


def random_clip(rng: Random) -> Clip:
    """One to four shapes; the mover's way is free; colour and kind of the mover occur once."""
    frames, fps = rng.choice(((4, 2), (6, 2), (8, 2), (8, 4)))
    if rng.random() < 0.1:
        return Clip(random_scene(rng, 1, 4), None, "", 0, frames, fps)
    direction = rng.choice(list(DIRECTIONS))
    distance = rng.choice((1, 2))
    start, way = _way(rng, direction, distance)
    free = [cell for cell in range(9) if cell not in way]
    rest = rng.sample(free, rng.randint(0, 3))
    scene = random_scene(rng, cells=rest)
    allowed = [colour for colour in COLOURS if colour != scene.background]
    names = [(colour, kind) for colour in allowed for kind in KINDS if (colour, kind) not in scene.names]
    colour, kind = rng.choice(names)
    mover = random_shape(rng, start, kind, colour)
    shapes = tuple(sorted((*scene.shapes, mover), key=lambda shape: shape.cell))
    return Clip(replace(scene, shapes=shapes), shapes.index(mover), direction, distance, frames, fps)


def _way(rng: Random, direction: str, distance: int) -> tuple[int, list[int]]:
    """The first cell, and all cells on the way."""
    step_x, step_y = DIRECTIONS[direction]
    along = rng.choice([i for i in range(3) if 0 <= i + distance * (step_x + step_y) <= 2])
    across = rng.randrange(3)
    x, y = (along, across) if step_x else (across, along)
    return 3 * y + x, [3 * (y + i * step_y) + x + i * step_x for i in range(distance + 1)]


def draw_clip(clip: Clip, width: int, height: int) -> np.ndarray:
    """The frames, uint8 [frames, height, width, 3]."""
    if clip.mover is None:
        return np.repeat(draw(clip.scene, width, height)[None], clip.frames, axis=0)
    step_x, step_y = DIRECTIONS[clip.direction]
    pictures = []
    for frame in range(clip.frames):
        moved = clip.distance * frame / (clip.frames - 1) / 3
        shapes = list(clip.scene.shapes)
        mover = shapes[clip.mover]
        shapes[clip.mover] = replace(mover, x=mover.x + step_x * moved, y=mover.y + step_y * moved)
        pictures.append(draw(replace(clip.scene, shapes=tuple(shapes)), width, height))
    return np.stack(pictures)
