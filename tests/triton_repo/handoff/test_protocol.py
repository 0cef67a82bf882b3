"""The protocol under any order of events: losses, duplicates, reordering, restarts, cuts, cancellations, damage."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.handoff_world import RETENTION, STALL, World
from triton_repo.handoff.errors import Busy, Cancelled, EncodeFailed

INDEX = st.integers(0, 1000)
SLOTS, BLOCK = st.integers(1, 5), st.integers(1, 5)
TRANSFERS = 5
# Far more than a transfer without faults needs.
ROUNDS = 200


class Protocol(RuleBasedStateMachine):
    """After any number of faults, a reliable network ends every transfer and brings every slot back."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(tokens=st.lists(st.integers(1, 12), min_size=1, max_size=3), slots=SLOTS, block=BLOCK)
    def begin(self, tokens: list[int], slots: int, block: int) -> None:
        for count in tokens:
            self.world.start(count)
        self.world.open(slots, block)

    @rule(tokens=st.integers(1, 12))
    def start(self, tokens: int) -> None:
        if len(self.world.asked) < TRANSFERS:
            self.world.start(tokens)

    @rule(steps=st.lists(st.tuples(st.sampled_from(["up", "down", "run", "write", "encode"]), INDEX), min_size=1,
                         max_size=12))
    def go_on(self, steps: list[tuple[str, int]]) -> None:
        """What a network does that may deliver in any order."""
        world = self.world
        for kind, index in steps:
            if kind == "up" and world.up:
                world.deliver_up(index % len(world.up))
            elif kind == "down" and world.down:
                world.deliver_down(index % len(world.down))
            elif kind == "run":
                world.run(self._one(index))
            elif kind == "encode" and world.tasks:
                world.encode(index % len(world.tasks))
            elif kind == "write":
                world.write()

    @rule(rounds=st.integers(1, 12))
    def go_on_in_order(self, rounds: int) -> None:
        """What a good network does, so that transfers get somewhere; it stops with messages under way."""
        for _ in range(rounds):
            if self.world.tasks:
                self.world.encode(0)
            self.world.write()
            self._exchange_once()

    @rule(seconds=st.sampled_from([0.1, STALL, RETENTION]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(which=st.sampled_from(["up", "down"]), index=INDEX, count=st.integers(0, 2))
    def lose_or_repeat(self, which: str, index: int, count: int) -> None:
        """A message that is under way arrives not at all, once or twice."""
        under_way = getattr(self.world, which)
        if under_way:
            under_way.extend([under_way.pop(index % len(under_way))] * count)

    @rule(index=INDEX, event=st.sampled_from(["cancel", "heartbeat", "fail", "corrupt", "write"]))
    def disturb(self, index: int, event: str) -> None:
        """The receiver does not want rows any more, the encoder or a write fails, memory is damaged."""
        world = self.world
        if event == "cancel":
            world.cancel(self._one(index))
        elif event == "heartbeat":
            world.heartbeat()
        elif event == "corrupt":
            world.corrupt(index)
        elif event == "write":
            world.write("out of reach")
        elif world.tasks:
            world.fail(index % len(world.tasks))

    @rule(slots=SLOTS, block=BLOCK, event=st.sampled_from(["cut", "open", "refuse", "restart", "forget"]))
    def interrupt(self, slots: int, block: int, event: str) -> None:
        """Streams break and come back, with other buffers; the encode server is killed, or loses its memory."""
        world = self.world
        if event == "cut":
            world.cut()
        elif event == "open":
            world.notice()
            world.open(slots, block)
        elif event == "refuse":
            world.refuse()
        else:
            if event == "restart":
                world.cut()
            world.start_sender()

    @invariant()
    def what_has_ended_has_ended_well(self) -> None:
        for asked in self.world.asked.values():
            outcome = asked.outcome
            if isinstance(outcome, np.ndarray):
                assert any(np.array_equal(outcome, rows) for rows in asked.encodings), "rows of no single encoding"
            elif outcome is not None:
                expected = [Busy] + [Cancelled] * asked.cancelled + [EncodeFailed] * asked.failed
                assert type(outcome) in expected, outcome

    @invariant()
    def no_torn_block_was_read(self) -> None:
        """Checksums find what the machine room does, not what the protocol does."""
        if not self.world.corruptions:
            assert not any(asked.fetch._machine._setbacks.corrupt for asked in self.world.asked.values())

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
            self._exchange_once()

    def _exchange_once(self) -> None:
        world = self.world
        if world.up:
            world.deliver_up(0)
        if world.down:
            world.deliver_down(0)
        for asked in world.asked.values():
            world.run(asked)

    def _one(self, index: int):
        return list(self.world.asked.values())[index % len(self.world.asked)]


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def test_slots_of_a_lost_stream_are_not_taken_for_those_of_the_next() -> None:
    """One transfer reads its last block after the stream was lost, while the other already has the next stream."""
    protocol = Protocol()
    world = protocol.world
    protocol.begin([1, 1], 1, 1)
    protocol._exchange()
    while world.tasks:
        world.encode(0)
    protocol._exchange()
    world.write()
    world.write()
    world.deliver_down(0)
    world.cut()
    world.notice()
    first, second = world.asked.values()
    world.run(second)
    world.pass_time(1)
    world.open(1, 1)
    while first.outcome is None or not second.fetch.events.empty():
        world.run(second)
        world.run(first)
    assert isinstance(first.outcome, np.ndarray)
    assert world.streams[-1].slots.free == 1 and second.fetch._machine.held == ()
    protocol.teardown()


def test_a_request_that_its_own_end_overtook_writes_to_no_slot() -> None:
    """The slots granted with it were given back when the sender had answered the end."""
    protocol = Protocol()
    world = protocol.world
    protocol.begin([1], 2, 1)
    protocol.go_on([("run", 0)])
    protocol.disturb(0, "cancel")
    assert [type(message).__name__ for _, message in world.up] == ["Request", "Cancel"]
    world.deliver_up(1)
    world.deliver_up(0)
    assert not world.tasks and world.sender.stats().transfers == 0
    protocol.teardown()
