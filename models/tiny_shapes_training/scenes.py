"""Scenes of coloured shapes, and their pictures."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from models.tiny_shapes_training.words import BACKGROUNDS, COLOURS, KINDS, PLACES

SUPERSAMPLING = 2
MAX_SHAPES = 4


@dataclass(frozen=True)
class Shape:
    """One shape, by default at rest.

    Attributes:
        cell: of the 3x3 grid, row by row.
        x, y: its centre, as shares of the picture's width and height.
        size: its radius, as a share of the shorter side of a cell.
        tilt: in radians.
        rgb: the very shade of its colour.
    """

    kind: str
    colour: str
    cell: int
    x: float
    y: float
    size: float
    tilt: float
    rgb: tuple[int, int, int]

    @property
    def place(self) -> str:
        return PLACES[self.cell]

    @property
    def name(self) -> tuple[str, str]:
        return self.colour, self.kind


@dataclass(frozen=True)
class Scene:
    """Shapes in reading order (their cells, row by row), at most one in a cell."""

    shapes: tuple[Shape, ...]
    background: str
    background_rgb: tuple[int, int, int]

    def count(self, kind: str | None = None, colour: str | None = None) -> int:
        return sum(kind in (None, shape.kind) and colour in (None, shape.colour) for shape in self.shapes)

    @property
    def names(self) -> Counter[tuple[str, str]]:
        """(colour, kind) -> how often, in order of first appearance."""
        return Counter(shape.name for shape in self.shapes)

    def unique(self) -> list[Shape]:
        """Shapes whose colour and kind together occur once."""
        return [shape for shape in self.shapes if self.names[shape.name] == 1]


def random_scene(rng: Random, min_shapes: int = 1, max_shapes: int = MAX_SHAPES,
                 cells: list[int] | None = None) -> Scene:
    """Few kinds and colours at a time, so that counts above 1 are common."""
    background = rng.choice(list(BACKGROUNDS))
    allowed = [colour for colour in COLOURS if colour != background]
    kinds = rng.sample(KINDS, rng.randint(1, len(KINDS)))
    colours = rng.sample(allowed, rng.choice((1, 2, 3, len(allowed))))
    number = rng.randint(min_shapes, max_shapes)
    chosen = sorted(cells if cells is not None else rng.sample(range(9), number))
    shapes = tuple(random_shape(rng, cell, rng.choice(kinds), rng.choice(colours)) for cell in chosen)
    return Scene(shapes, background, shade(rng, BACKGROUNDS[background], 8))


def random_shape(rng: Random, cell: int, kind: str, colour: str) -> Shape:
    size = rng.uniform(0.34, 0.46)
    slack = 0.46 - size
    x = (cell % 3 + 0.5 + rng.uniform(-slack, slack)) / 3
    y = (cell // 3 + 0.5 + rng.uniform(-slack, slack)) / 3
    return Shape(kind, colour, cell, x, y, size, rng.uniform(-0.15, 0.15), shade(rng, COLOURS[colour], 12))


def shade(rng: Random, rgb: tuple[int, int, int], spread: int) -> tuple[int, int, int]:
    return tuple(min(255, max(0, value + rng.randint(-spread, spread))) for value in rgb)


def draw(scene: Scene, width: int, height: int) -> np.ndarray:
    """The picture, uint8 [height, width, 3], edges smoothed."""
    scaled_width, scaled_height = width * SUPERSAMPLING, height * SUPERSAMPLING
    image = Image.new("RGB", (scaled_width, scaled_height), scene.background_rgb)
    canvas = ImageDraw.Draw(image)
    for shape in scene.shapes:
        radius = shape.size * min(scaled_width, scaled_height) / 3
        _draw_shape(canvas, shape, shape.x * scaled_width, shape.y * scaled_height, radius)
    return np.asarray(image.reduce(SUPERSAMPLING))


def _draw_shape(canvas: ImageDraw.ImageDraw, shape: Shape, x: float, y: float, radius: float) -> None:
    if shape.kind == "circle":
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=shape.rgb)
        return
    cos, sin = math.cos(shape.tilt), math.sin(shape.tilt)
    corners = [(x + radius * (px * cos - py * sin), y + radius * (px * sin + py * cos))
               for px, py in _OUTLINES[shape.kind]]
    canvas.polygon(corners, fill=shape.rgb)


def _polygon(corners: int, first_angle: float, radii: tuple[float, ...] = (1.0,)) -> list[tuple[float, float]]:
    angles = [first_angle + 2 * math.pi * i / corners for i in range(corners)]
    return [(radii[i % len(radii)] * math.cos(angle), radii[i % len(radii)] * math.sin(angle))
            for i, angle in enumerate(angles)]


# Corners on the unit circle around the centre; y points down.
_OUTLINES = {
    "square": _polygon(4, math.pi / 4, (1.15,)),
    "triangle": _polygon(3, -math.pi / 2, (1.1,)),
    "star": _polygon(10, -math.pi / 2, (1.1, 0.45)),
}
