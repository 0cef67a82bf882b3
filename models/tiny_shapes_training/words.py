"""Names of kinds, colours, places and directions in English, Chinese and emoji."""

from __future__ import annotations

from collections.abc import Sequence

KINDS = ("circle", "square", "triangle", "star")
COLOURS = {
    "red": (220, 40, 40), "yellow": (245, 220, 40), "green": (40, 165, 70), "blue": (45, 85, 220),
    "purple": (140, 55, 180), "black": (20, 20, 20),
}
BACKGROUNDS = {"white": (250, 250, 250), "gray": (125, 125, 125)}
# Cells of a 3x3 grid, row by row.
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

CHINESE_KINDS = dict(zip(KINDS, ("圆形", "正方形", "三角形", "星形"), strict=True))
CHINESE_COLOURS = dict(zip(COLOURS, ("红色", "黄色", "绿色", "蓝色", "紫色", "黑色"), strict=True))
CHINESE_PLACES = dict(zip(PLACES, ("左上角", "上方", "右上角", "左边", "中间", "右边", "左下角", "下方", "右下角"),
                          strict=True))
CHINESE_DIRECTIONS = {"left": "向左", "right": "向右", "up": "向上", "down": "向下"}
CHINESE_NUMBERS = ("零", "一", "两", "三", "四", "五", "六", "七", "八", "九")

DIRECTION_EMOJI = {"left": "⬅️", "right": "➡️", "up": "⬆️", "down": "⬇️"}
_COLOURED_EMOJI = {
    "circle": dict(zip(COLOURS, "🔴🟡🟢🔵🟣⚫", strict=True)),
    "square": dict(zip(COLOURS, "🟥🟨🟩🟦🟪⬛", strict=True)),
}
# Unicode has these in one colour each.
_PLAIN_EMOJI = {"triangle": "🔺", "star": "⭐"}
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def shape_emoji(kind: str, colour: str) -> str:
    """Circles and squares in their colour; other kinds have one emoji whatever the colour."""
    return _COLOURED_EMOJI[kind][colour] if kind in _COLOURED_EMOJI else _PLAIN_EMOJI[kind]


def colour_emoji(colour: str) -> str:
    return _COLOURED_EMOJI["circle"][colour]


def number_emoji(number: int) -> str:
    """A keycap digit: three code points, 7 bytes."""
    return f"{number}\ufe0f\u20e3"


def a_shape(colour: str, kind: str) -> str:
    """"a red circle" """
    return f"a {colour} {kind}"


def some_shapes(number: int, colour: str, kind: str) -> str:
    """"a red circle", "three red circles" """
    return a_shape(colour, kind) if number == 1 else f"{NUMBER_WORDS[number]} {colour} {kind}s"


def chinese_shapes(number: int, colour: str, kind: str) -> str:
    return f"{CHINESE_NUMBERS[number]}个{CHINESE_COLOURS[colour]}{CHINESE_KINDS[kind]}"


def joined(parts: Sequence[str], comma: str = ", ", last: str = " and ") -> str:
    """"a", "a and b", "a, b and c" """
    return last.join(filter(None, [comma.join(parts[:-1]), parts[-1]]))


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
