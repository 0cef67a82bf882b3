"""Sampling parameters are validated with messages that say what was expected."""

import json

import pytest

from qwen3vl.errors import InvalidRequest
from qwen3vl.sampling import SamplingParams


def test_round_trip():
    params = SamplingParams(max_tokens=3, temperature=0.7, top_p=0.9, top_k=40, seed=2**63 - 1,
                            repetition_penalty=1.1, stop=("\n", "停"), stream=False)
    assert SamplingParams.from_json(params.to_json()) == params


def test_defaults_are_greedy():
    assert SamplingParams.from_json("{}") == SamplingParams(
        max_tokens=256, temperature=0.0, top_p=1.0, top_k=0, seed=None, repetition_penalty=1.0, stop=(), stream=True)


def test_bounds_are_allowed():
    SamplingParams(max_tokens=1, temperature=0, top_p=1, top_k=0, seed=0, repetition_penalty=0.01)


@pytest.mark.parametrize("stop", ["end", ["end"], ("end",)])
def test_stop_is_a_string_or_a_list(stop):
    assert SamplingParams(stop=stop).stop == ("end",)


@pytest.mark.parametrize(("name", "value", "expected"), [
    ("max_tokens", 0, "a whole number from 1"), ("max_tokens", 1.5, "a whole number"),
    ("max_tokens", "9", "a whole number"), ("max_tokens", True, "a whole number"),
    ("max_tokens", None, "a whole number"),
    ("temperature", -0.1, "at least 0"), ("temperature", float("nan"), "at least 0"),
    ("temperature", float("inf"), "at least 0"), ("temperature", 10**400, "at least 0"),
    ("temperature", "hot", "at least 0"), ("temperature", False, "at least 0"),
    ("top_p", 0, "above 0 and at most 1"), ("top_p", 1.01, "above 0 and at most 1"),
    ("top_p", float("nan"), "above 0 and at most 1"),
    ("top_k", -1, "a whole number from 0"), ("top_k", 2.0, "a whole number from 0"),
    ("seed", -1, "a whole number from 0"), ("seed", 2**63, "a whole number from 0 to 9223372036854775807"),
    ("seed", "abc", "a whole number"),
    ("repetition_penalty", 0, "above 0"), ("repetition_penalty", -1, "above 0"),
    ("stop", "", "none of them empty"), ("stop", ["a", ""], "none of them empty"), ("stop", [1], "list of strings"),
    ("stop", {"a": 1}, "list of strings"), ("stop", None, "list of strings"), ("stop", ["a"] * 17, "at most 16"),
    ("stream", 1, "true or false"), ("stream", "yes", "true or false"),
])
def test_values_out_of_range(name, value, expected):
    with pytest.raises(InvalidRequest, match=f"{name} (is|has) .*expected .*{expected}"):
        SamplingParams.from_dict({name: value})


def test_an_unknown_name_gets_the_list_of_known_ones():
    with pytest.raises(InvalidRequest, match=r"unknown parameter 'beams', 'topp': the parameters are max_tokens, "):
        SamplingParams.from_json('{"topp": 0.5, "beams": 3}')


def test_messages_can_be_sent_whatever_the_names_are():
    with pytest.raises(InvalidRequest) as raised:
        SamplingParams.from_json('{"\\ud800": 1}')
    assert str(raised.value).encode()


@pytest.mark.parametrize(("text", "message"), [
    ("{", "not valid JSON"), ("", "not valid JSON"), (b"\xff", "not valid JSON"), ("[" * 100000, "not valid JSON"),
    ("[1]", "a JSON list, expected an object"), ("null", "a JSON NoneType, expected an object"),
])
def test_what_is_not_an_object(text, message):
    with pytest.raises(InvalidRequest, match=message):
        SamplingParams.from_json(text)


def test_json_has_every_parameter():
    assert json.loads(SamplingParams().to_json()).keys() == SamplingParams.__dataclass_fields__.keys()
