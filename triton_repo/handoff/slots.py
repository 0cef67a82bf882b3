"""Who has which slots of the language side's block buffers: first come, first served, never more than there are."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False)
class Waiter:
    """A transfer in line for slots. `on_slots` is called once, from any thread, with at least one."""

    most: int
    on_slots: Callable[[list[int]], None]


class SlotPool:
    """Hands out slots; used from any thread.

    Args:
        slots: how many there are.
    """

    def __init__(self, slots: int) -> None:
        self._lock = threading.Lock()
        self._free, self._slots = list(range(slots)), slots
        self._line: deque[Waiter] = deque()

    @property
    def free(self) -> int:
        """Slots that nobody has."""
        return len(self._free)

    def request(self, waiter: Waiter) -> None:
        """Get in line: `on_slots` is called now if there are slots and nobody is before it, else when there are."""
        with self._lock:
            self._line.append(waiter)
        self._serve()

    def spare(self, most: int) -> list[int]:
        """Slots for somebody who can do without: half of all stay free, and none are given while others wait."""
        with self._lock:
            count = 0 if self._line else max(0, min(most, len(self._free) - -(-self._slots // 2)))
            given, self._free = self._free[:count], self._free[count:]
            return given

    def forget(self, waiter: Waiter) -> bool:
        """Leave the line. Returns False if slots were, or are just being, given to it: it has to give them back."""
        with self._lock:
            if waiter not in self._line:
                return False
            self._line.remove(waiter)
            return True

    def give_back(self, slots: tuple[int, ...] | list[int]) -> None:
        """These slots are free. They are the next to be given: their memory is in the caches."""
        with self._lock:
            self._free[:0] = slots
        self._serve()

    def _serve(self) -> None:
        while True:
            with self._lock:
                if not self._free or not self._line:
                    return
                waiter = self._line.popleft()
                given, self._free = self._free[:waiter.most], self._free[waiter.most:]
            waiter.on_slots(given)
