"""Work divided among threads: all of it is done, and nothing is going on any more when it ends."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from qwen3vl.shared_work import share


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


@pytest.mark.parametrize(("length", "shares"), [(0, 1), (1, 1), (7, 1), (7, 3), (8, 4), (5, 5)])
def test_shares_follow_each_other_and_this_thread_has_the_first(pool: ThreadPoolExecutor, length: int, shares: int):
    done = []
    share(pool, lambda begin, end: done.append((begin, end, threading.current_thread())), length, shares)
    done.sort(key=lambda part: part[0])
    assert len(done) == shares and done[0][0] == 0 and done[-1][1] == length
    assert all(first[1] == second[0] for first, second in pairwise(done))
    assert done[0][2] is threading.current_thread()


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_is_raised_when_all_shares_have_ended(pool: ThreadPoolExecutor, failing: int):
    ended = []

    def work(begin: int, end: int) -> None:
        if begin == failing:
            raise ValueError(begin)
        time.sleep(0.1)
        ended.append(begin)

    with pytest.raises(ValueError, match=str(failing)):
        share(pool, work, 3, 3)
    assert sorted(ended) == [i for i in range(3) if i != failing]
