"""Who is where in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar


class Occupant(Protocol):
    """A sequence in the cache: its slot, -1 for none, and how many tokens of it are there."""

    slot: int

    @property
    def cached(self) -> int: ...


S = TypeVar("S", bound=Occupant)


class Slots(Generic[S]):
    """Keeps running sequences in slots 0 to B-1, as a decode step needs them, and prompts in prefill behind.

    Attributes:
        running: sequences that are decoded; the one at index i is in slot i.

    Args:
        count: slots of the cache.
        move: copies the first `length` tokens of slot `source` to slot `target`.
    """

    def __init__(self, count: int, move: Callable[[int, int, int], None]):
        self.running: list[S] = []
        self._count, self._move_tokens = count, move

    def place(self, prompt: S, started: Iterable[S]) -> None:
        """Give a prompt the first free slot.

        Args:
            started: the prompts that have one.
        """
        prompt.slot = self._free(started)

    def start(self, prompt: S, started: Iterable[S]) -> None:
        """Make a prompt that is in the cache a running sequence.

        Args:
            started: the prompts that have a slot, this one included. If another one is where this one must go, there
                has to be a free slot for it.
        """
        target = len(self.running)
        in_the_way = next((other for other in started if other.slot == target and other is not prompt), None)
        if in_the_way is not None:
            self._move(in_the_way, self._free(started))
        self._move(prompt, target)
        self.running.append(prompt)

    def leave(self, sequence: S) -> None:
        """Free a running sequence's slot: the last running one moves into it."""
        last = self.running.pop()
        if last is not sequence:
            self.running[sequence.slot] = last
            self._move(last, sequence.slot)

    def _free(self, started: Iterable[S]) -> int:
        taken = {prompt.slot for prompt in started}
        return next(slot for slot in range(len(self.running), self._count) if slot not in taken)

    def _move(self, sequence: S, target: int) -> None:
        if sequence.slot != target:
            self._move_tokens(sequence.slot, target, sequence.cached)
            sequence.slot = target
