"""The requests that engines and reference are compared on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from qwen3vl.processor import ModelInputs, Processor

PICTURE, CLIP = {"type": "image"}, {"type": "video"}


@dataclass(frozen=True)
class Case:
    """One request. `kinds` says of each of `inputs.grids` whether it is an "image" or a "video"."""

    name: str
    inputs: ModelInputs
    kinds: tuple[str, ...]


def make_cases(processor: Processor) -> list[Case]:
    """Text, one image, several images of different sizes, video, and a mixture, from generated pictures."""
    square, wide, tall = picture(160, 160, seed=1), picture(288, 96, seed=2), picture(96, 224, seed=3)
    clip = animation(128, 96, frames=6, seed=4)
    requests = [
        ("text", ["How many sides does a triangle have?"], (), ()),
        ("one image", [PICTURE, "What is in the picture?"], (square,), ()),
        ("images of three sizes", [PICTURE, "and", PICTURE, "and", PICTURE, "Compare them."], (square, wide, tall), ()),
        ("video", [CLIP, "What moves?"], (), (clip,)),
        ("images and a video", [PICTURE, CLIP, PICTURE, "Which picture is like the clip?"], (wide, tall), (clip,)),
    ]
    return [_case(processor, *request) for request in requests]


def _case(processor: Processor, name: str, parts: Sequence[dict | str], images: Sequence[bytes],
          videos: Sequence[bytes]) -> Case:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    inputs = processor(messages=[{"role": "user", "content": content}], images=images, videos=videos)
    return Case(name, inputs, tuple(part["type"] for part in parts if isinstance(part, dict)))


def picture(width: int, height: int, seed: int) -> bytes:
    """A PNG of a smooth background with a few coloured shapes, sizes in pixels."""
    return _encode([_draw(width, height, seed, shift=0)])


def animation(width: int, height: int, frames: int, seed: int) -> bytes:
    """A GIF of the same shapes drifting to the right, four frames a second."""
    return _encode([_draw(width, height, seed, shift=6 * frame) for frame in range(frames)])


def _draw(width: int, height: int, seed: int, shift: int) -> Image.Image:
    random = np.random.default_rng(seed)
    corners = random.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    image = Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    for shape in (draw.ellipse, draw.rectangle, draw.ellipse):
        x, y = random.integers(0, width * 3 // 4), random.integers(0, height * 3 // 4)
        size, color = random.integers(min(width, height) // 6, min(width, height) // 3), random.integers(0, 256, 3)
        shape((x + shift, y, x + shift + size, y + size), fill=tuple(map(int, color)))
    return image


def _encode(frames: Sequence[Image.Image]) -> bytes:
    stream = io.BytesIO()
    if len(frames) == 1:
        frames[0].save(stream, "PNG")
    else:
        frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], duration=250)
    return stream.getvalue()
