"""What conversations are about, and how large their pictures are."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from models.tiny_shapes_training import conversations
from models.tiny_shapes_training.conversations import Media, Size

# (rows, columns) in visual tokens of 32 x 32 pixels
Grid = tuple[int, int]
SMALL_TOKENS = 25
SIDES = (3, 10)
# Kind of media -> its share of all conversations.
SHARES = {"large picture": 0.3, "small picture": 0.32, "several pictures": 0.16, "clip": 0.14, "text": 0.08}


def mixed(count: int) -> list[str]:
    """Kinds of media for a batch, in these shares; text fills up."""
    kinds = [kind for kind, share in SHARES.items() if kind != "text" for _ in range(round(count * share))]
    return (kinds + ["text"] * count)[:count]


def random_kind(rng: Random) -> str:
    return rng.choices(list(SHARES), list(SHARES.values()))[0]


def media(rng: Random, kind: str) -> Media:
    """At most one frame is large; a batch of `mixed` kinds thus has a bounded number of frames of each class."""
    if kind == "large picture":
        return conversations.picture(rng, _size(rng, large_grid(rng)))
    if kind == "small picture":
        return conversations.picture(rng, _size(rng, small_grid(rng)))
    if kind == "several pictures":
        first = large_grid(rng) if rng.random() < 0.5 else small_grid(rng)
        grids = [first, *(small_grid(rng) for _ in range(rng.choice((1, 1, 1, 2))))]
        return conversations.several_pictures(rng, [_size(rng, grid) for grid in rng.sample(grids, len(grids))])
    if kind == "clip":
        return conversations.moving_picture(rng, _size(rng, small_grid(rng)))
    return conversations.nothing()


def small_grid(rng: Random) -> Grid:
    return _grid(rng, lambda tokens: tokens <= SMALL_TOKENS)


def large_grid(rng: Random) -> Grid:
    return _grid(rng, lambda tokens: tokens > SMALL_TOKENS)


def _grid(rng: Random, wanted: Callable[[int], bool]) -> Grid:
    while True:
        rows, columns = rng.randint(*SIDES), rng.randint(*SIDES)
        if wanted(rows * columns):
            return rows, columns


def _size(rng: Random, grid: Grid) -> Size:
    """(width, height) in pixels that the preprocessing rounds to this grid: 96 to 335 pixels a side."""
    rows, columns = grid
    return tuple(32 * n + (rng.randint(-15, 15) if n > 3 else rng.randint(0, 15)) for n in (columns, rows))
