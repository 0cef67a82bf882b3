"""The cache's slots: running sequences come first without gaps, and nobody's tokens get lost or mixed up."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engines.batching.slots import Slots


@dataclass(eq=False)
class Occupant:
    name: int
    slot: int = -1
    tokens: list[int] = field(default_factory=list)

    @property
    def cached(self) -> int:
        return len(self.tokens)


class SlotsMachine(RuleBasedStateMachine):
    """Any order of starts, steps and ends, over a cache whose content is known."""

    @initialize(count=st.integers(1, 6))
    def create(self, count: int) -> None:
        self.count, self.names, self.started = count, 0, []
        self.cache: list[list[int]] = [[] for _ in range(count)]
        self.slots: Slots[Occupant] = Slots(count, self.move)

    def move(self, source: int, target: int, length: int) -> None:
        assert source != target
        self.cache[target] = self.cache[source][:length] + self.cache[target][length:]

    def free(self) -> int:
        return self.count - len(self.slots.running) - len(self.started)

    def append(self, occupant: Occupant, values: list[int]) -> None:
        tokens = self.cache[occupant.slot]
        tokens[occupant.cached :] = values
        occupant.tokens += values

    @precondition(lambda self: self.free() >= (2 if self.started else 1))
    @rule(tokens=st.integers(1, 3))
    def place(self, tokens: int) -> None:
        self.names += 1
        occupant = Occupant(self.names)
        self.started.append(occupant)
        self.slots.place(occupant, self.started)
        self.append(occupant, [occupant.name] * tokens)

    @precondition(lambda self: self.started)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        occupant = data.draw(st.sampled_from(self.started))
        self.slots.start(occupant, self.started)
        self.started.remove(occupant)

    @precondition(lambda self: self.slots.running)
    @rule()
    def step(self) -> None:
        for index, occupant in enumerate(self.slots.running):
            assert occupant.slot == index
            self.append(occupant, [occupant.name])

    @precondition(lambda self: self.slots.running)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.slots.leave(data.draw(st.sampled_from(self.slots.running)))

    @precondition(lambda self: self.started)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        self.started.remove(data.draw(st.sampled_from(self.started)))

    @invariant()
    def everybody_has_its_own(self) -> None:
        if hasattr(self, "slots"):
            occupants = self.slots.running + self.started
            assert [occupant.slot for occupant in self.slots.running] == list(range(len(self.slots.running)))
            assert len({occupant.slot for occupant in occupants}) == len(occupants)
            for occupant in occupants:
                assert self.cache[occupant.slot][: occupant.cached] == occupant.tokens


TestSlots = SlotsMachine.TestCase
TestSlots.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_lone_prompt_is_never_copied():
    def move(*_: int) -> None:
        pytest.fail("tokens were copied")

    slots: Slots[Occupant] = Slots(2, move)
    for name in range(2):
        prompt = Occupant(name)
        slots.place(prompt, [prompt])
        slots.start(prompt, [prompt])
    assert [occupant.name for occupant in slots.running] == [0, 1]
