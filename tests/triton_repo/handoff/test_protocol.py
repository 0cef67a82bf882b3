"""The protocol under any order of events: losses, duplicates, reordering, restarts, cuts, cancellations, damage."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.handoff_world import RETENTION, STALL, World
from triton_repo.handoff.errors import Cancelled, EncodeFailed

INDEX = st.integers(0, 1_000_000)
TRANSFERS = 3
# Far more than a transfer without faults needs.
ROUNDS = 200


class Protocol(RuleBasedStateMachine):
    """After any number of faults, a reliable network ends every transfer and brings every slot back."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @precondition(lambda self: len(self.world.asked) < TRANSFERS)
    @rule(tokens=st.integers(1, 12))
    def start(self, tokens: int) -> None:
        self.world.start(tokens)

    @rule(slots=st.integers(1, 3), block=st.integers(1, 5))
    def open(self, slots: int, block: int) -> None:
        self.world.open(slots, block)

    @rule()
    def refuse(self) -> None:
        self.world.refuse()

    @precondition(lambda self: self.world.asked)
    @rule(index=INDEX, events=st.integers(1, 4))
    def run(self, index: int, events: int) -> None:
        for _ in range(events):
            self.world.run(self._one(index))

    @precondition(lambda self: self.world.up)
    @rule(index=INDEX, twice=st.booleans())
    def deliver_up(self, index: int, twice: bool) -> None:
        self._deliver(self.world.up, self.world.deliver_up, index, twice)

    @precondition(lambda self: self.world.down)
    @rule(index=INDEX, twice=st.booleans())
    def deliver_down(self, index: int, twice: bool) -> None:
        self._deliver(self.world.down, self.world.deliver_down, index, twice)

    @rule()
    def deliver_all(self) -> None:
        """As a good network does, so that transfers get somewhere."""
        self._exchange()

    @precondition(lambda self: self.world.up)
    @rule(index=INDEX)
    def lose_up(self, index: int) -> None:
        self.world.up.pop(index % len(self.world.up))

    @precondition(lambda self: self.world.down)
    @rule(index=INDEX)
    def lose_down(self, index: int) -> None:
        self.world.down.pop(index % len(self.world.down))

    @precondition(lambda self: self.world.tasks)
    @rule(index=INDEX)
    def encode(self, index: int) -> None:
        self.world.encode(index % len(self.world.tasks))

    @precondition(lambda self: self.world.tasks)
    @rule(index=INDEX)
    def fail(self, index: int) -> None:
        self.world.fail(index % len(self.world.tasks))

    @rule()
    def write(self) -> None:
        self.world.write()

    @rule(seconds=st.sampled_from([0.1, STALL, RETENTION]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule()
    def cut(self) -> None:
        self.world.cut()

    @rule()
    def notice(self) -> None:
        self.world.notice()

    @rule()
    def heartbeat(self) -> None:
        self.world.heartbeat()

    @rule()
    def restart_sender(self) -> None:
        self.world.start_sender()

    @precondition(lambda self: self.world.asked)
    @rule(index=INDEX)
    def cancel(self, index: int) -> None:
        self.world.cancel(self._one(index))

    @precondition(lambda self: self.world.streams)
    @rule(slot=INDEX, byte=INDEX)
    def corrupt(self, slot: int, byte: int) -> None:
        self.world.corrupt(slot, byte)

    @invariant()
    def what_has_ended_has_ended_well(self) -> None:
        for asked in self.world.asked.values():
            outcome = asked.outcome
            if isinstance(outcome, np.ndarray):
                assert any(np.array_equal(outcome, rows) for rows in asked.encodings), "rows of no single encoding"
            elif outcome is not None:
                assert ((isinstance(outcome, Cancelled) and asked.cancelled)
                        or (isinstance(outcome, EncodeFailed) and asked.failed)), outcome

    @invariant()
    def no_torn_block_was_read(self) -> None:
        """Checksums find what the machine room does, not what the protocol does."""
        if not self.world.corruptions:
            assert not any(asked.fetch._machine._corrupt for asked in self.world.asked.values())

    @invariant()
    def slots_are_all_there(self) -> None:
        for stream in self.world.streams:
            for slot in range(stream.buffers.slots):
                self.world._owner(stream, slot)

    def teardown(self) -> None:
        world = self.world
        for _ in range(ROUNDS):
            if all(asked.outcome is not None for asked in world.asked.values()):
                break
            self._settle()
        assert all(asked.outcome is not None for asked in world.asked.values()), "a transfer is stuck"
        self.what_has_ended_has_ended_well()
        for _ in range(3):
            self._settle()
        for stream in world.streams:
            if not stream.lost:
                assert stream.slots.free == stream.buffers.slots, "a slot has not come back"
        for seconds in (0, RETENTION):
            world.pass_time(seconds)
        assert world.sender.stats().transfers == 0, "the sender keeps a transfer"

    def _settle(self) -> None:
        world = self.world
        if world.streams and world.streams[-1].cut:
            world.notice()
        world.open(2, 3)
        self._exchange()
        while world.tasks:
            world.encode(0)
        for _ in range(4):
            world.write()
            self._exchange()
        world.heartbeat()
        self._exchange()
        world.pass_time(STALL)

    def _exchange(self) -> None:
        world = self.world
        while world.up or world.down or any(
                asked.outcome is None and not asked.fetch.events.empty() for asked in world.asked.values()):
            if world.up:
                world.deliver_up(0)
            if world.down:
                world.deliver_down(0)
            for asked in world.asked.values():
                world.run(asked)

    def _deliver(self, messages: list, deliver, index: int, twice: bool) -> None:
        index %= len(messages)
        if twice:
            messages.append(messages[index])
        deliver(index)

    def _one(self, index: int):
        return list(self.world.asked.values())[index % len(self.world.asked)]


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(max_examples=150, stateful_step_count=80, deadline=None)
