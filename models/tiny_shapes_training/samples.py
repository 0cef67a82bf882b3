"""Draws the sample pictures and the clip of models/tiny-shapes/samples, with questions and right answers.

    python -m models.tiny_shapes_training.samples models/tiny-shapes/samples
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

from models.tiny_shapes_training.clips import Clip, draw_clip
from models.tiny_shapes_training.files import clip_file
from models.tiny_shapes_training.scenes import Scene, Shape, draw
from models.tiny_shapes_training.words import BACKGROUNDS, COLOURS, PLACES

# File -> (width, height), background, shapes as (colour, kind, place).
PICTURES = {
    "three_shapes.png": ((224, 224), "white", [("red", "circle", "top left"), ("blue", "square", "center"),
                                               ("yellow", "triangle", "bottom right")]),
    "green_circles.png": ((288, 160), "gray", [("green", "circle", "left"), ("purple", "star", "center"),
                                               ("green", "circle", "right")]),
    "black_star.png": ((128, 224), "white", [("black", "star", "top"), ("red", "square", "bottom")]),
}
CLIP = "moving_square.gif"
# Files -> question and right answer.
QUESTIONS = [
    (["three_shapes.png"], "What is in the picture?", "A red circle, a blue square and a yellow triangle."),
    (["three_shapes.png"], "What colour is the square?", "blue"),
    (["three_shapes.png"], "图片里有什么？", "一个红色圆形、一个蓝色正方形和一个黄色三角形。"),
    (["three_shapes.png"], "What is in the picture? Answer with emoji.", "🔴🟦🔺"),
    (["green_circles.png"], "How many circles are there?", "2"),
    (["black_star.png"], "Where is the star?", "top"),
    (["green_circles.png", "black_star.png"], "Which picture shows a black star?", "the second"),
    ([CLIP], "What moves?", "the blue square"),
    ([CLIP], "Which way does the blue square move?", "right"),
]


def make_scene(background: str, shapes: list[tuple[str, str, str]]) -> Scene:
    made = []
    for colour, kind, place in shapes:
        cell = PLACES.index(place)
        x, y = (cell % 3 + 0.5) / 3, (cell // 3 + 0.5) / 3
        made.append(Shape(kind, colour, cell, x, y, 0.42, 0.0, COLOURS[colour]))
    return Scene(tuple(made), background, BACKGROUNDS[background])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, (size, background, shapes) in PICTURES.items():
        Image.fromarray(draw(make_scene(background, shapes), *size)).save(folder / name)
    scene = make_scene("white", [("blue", "square", "left"), ("green", "circle", "bottom right")])
    clip = Clip(scene, 0, "right", 2, 8, 4)
    (folder / CLIP).write_bytes(clip_file(draw_clip(clip, 160, 160), clip.fps))
    samples = [{"files": files, "question": question, "answer": answer} for files, question, answer in QUESTIONS]
    (folder / "samples.json").write_text(json.dumps(samples, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
