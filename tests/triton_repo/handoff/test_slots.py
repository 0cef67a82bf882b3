"""Slots: first come, first served, each to one at a time, whatever threads do."""

from __future__ import annotations

import random
import threading
import time

from triton_repo.handoff.messages import Cancel
from triton_repo.handoff.quarantine import Quarantine
from triton_repo.handoff.slots import SlotPool, Waiter


def test_in_order_of_arrival() -> None:
    pool, given = SlotPool(3), []
    for name, most in (("a", 2), ("b", 2), ("c", 1)):
        pool.request(Waiter(most, lambda slots, name=name: given.append((name, slots))))
    assert given == [("a", [0, 1]), ("b", [2])]
    pool.give_back([1])
    assert given[2:] == [("c", [1])]
    pool.give_back([0, 1, 2])
    assert pool.free == 3


def test_spare_slots_are_those_that_leave_half_of_them_free() -> None:
    pool = SlotPool(5)
    assert pool.spare(1) == [0] and pool.spare(3) == [1] and pool.spare(1) == [] and pool.free == 3
    assert SlotPool(1).spare(1) == []
    pool.give_back([0, 1])
    given = []
    pool.request(Waiter(9, given.extend))
    pool.request(Waiter(1, given.extend))
    pool._free = [8, 9, 10, 11]  # given back, and about to go to who waits
    assert pool.spare(1) == []


def test_who_leaves_the_line_is_passed_over() -> None:
    pool, given = SlotPool(1), []
    first, second, third = (Waiter(1, given.append) for _ in range(3))
    for waiter in (first, second, third):
        pool.request(waiter)
    assert pool.forget(second)
    assert not pool.forget(first), "it has got a slot already"
    pool.give_back([0])
    assert given == [[0], [0]] and not pool.forget(third)


def test_no_slot_is_given_twice_at_a_time() -> None:
    pool, held, lock = SlotPool(3), set(), threading.Lock()

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(200):
            got: list[int] = []
            there = threading.Event()
            pool.request(Waiter(chance.randint(1, 3), lambda slots, to=got, e=there: to.extend(slots) or e.set()))
            assert there.wait(60)
            with lock:
                assert not held & set(got)
                held.update(got)
            time.sleep(0)
            with lock:
                held.difference_update(got)
            pool.give_back(got)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(pool._free) == [0, 1, 2]


def test_quarantine_keeps_slots_until_the_sender_has_forgotten() -> None:
    freed: list[int] = []
    quarantine = Quarantine(freed.extend)
    quarantine.add("t", Cancel("t"), (3, 4))
    assert "t" in quarantine and quarantine.pending() == [Cancel("t")]
    quarantine.closed("another")
    assert freed == []
    quarantine.closed("t")
    quarantine.closed("t")
    assert freed == [3, 4] and quarantine.pending() == []
