"""Requests of a seed are always the same, within their ranges, and evenly spread over them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bench.serve.errors import BenchError
from bench.serve.workload import Range, RequestSet, Workload, fitted

WORKLOAD = Workload(Range(20, 200), Range(0, 4), ((64, 32), (32, 32)), Range(3, 9), seed=7)


def requests(seed: int = 7, disconnects: float = 0.0, count: int = 200) -> list:
    made = RequestSet(replace(WORKLOAD, seed=seed), tokens_per_word=2.0, disconnects=disconnects)
    return [made[i] for i in range(count)]


def words(request) -> list[str]:
    return request.messages[0]["content"][-1]["text"].split()


def test_the_same_seed_makes_the_same_requests_and_another_one_others():
    assert requests() == requests()
    assert requests()[3] == requests(count=4)[3]
    assert all(one.messages != other.messages for one, other in zip(requests(), requests(seed=8), strict=True))
    assert len({json.dumps(request.messages) for request in requests()}) == 200


def test_every_number_is_in_its_range_and_the_whole_range_is_used():
    made = requests()
    lengths = [len(words(request)) for request in made]
    assert (min(lengths), max(lengths)) == pytest.approx((10, 100), abs=2)
    assert np.mean(lengths) == pytest.approx(55, abs=5)
    assert {len(request.images) for request in made} == {0, 1, 2, 3, 4}
    assert {request.max_tokens for request in made} == set(range(3, 10))


def test_each_image_has_its_place():
    for request in requests():
        kinds = [part["type"] for part in request.messages[0]["content"]]
        assert kinds == ["image"] * len(request.images) + ["text"]


def test_disconnects_are_the_share_that_was_asked_for_and_change_nothing_else():
    made = requests(disconnects=0.25, count=400)
    leaving = [request.hang_up for request in made if request.hang_up is not None]
    assert len(leaving) == pytest.approx(100, abs=30)
    assert 0 <= min(leaving) < 0.1 and 0.9 < max(leaving) <= 1
    assert [request.messages for request in made[:200]] == [request.messages for request in requests()]
    assert all(request.hang_up is None for request in requests())


def test_texts_are_shortened_where_there_is_no_room_for_them():
    assert fitted(WORKLOAD, 200) is WORKLOAD
    assert fitted(WORKLOAD, 50).text_tokens == Range(5, 50)
    assert fitted(WORKLOAD, 1).text_tokens == Range(1, 1)
    with pytest.raises(BenchError, match="4 images leave no room"):
        fitted(WORKLOAD, 0)


@pytest.mark.parametrize("least,most", [(2, 1), (-1, 3)])
def test_a_range_that_is_none_is_refused(least: int, most: int):
    with pytest.raises(BenchError, match=f"from {least} to {most}"):
        Range(least, most)
