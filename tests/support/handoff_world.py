"""Both ends of the hand-off in one thread, with a network, a writer and a clock that a test controls step by step.

The ends are the real ones: `Fetch` with its state machine, slots and quarantine, `SenderTransfers` with its own. What
is made up is what moves bytes and time. Blocks are written to the receiver's memory in two halves, so that everything
else can happen in between.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass, field

import numpy as np

from triton_repo.handoff import messages
from triton_repo.handoff.bulk import checksum
from triton_repo.handoff.encode_task import EncodeTask
from triton_repo.handoff.errors import Unreachable
from triton_repo.handoff.events import Lost, NotOpened, Opened, Said
from triton_repo.handoff.fetch import Fetch
from triton_repo.handoff.job import EncodeJob, RowsDescription
from triton_repo.handoff.messages import Message
from triton_repo.handoff.quarantine import Quarantine
from triton_repo.handoff.reply import Way
from triton_repo.handoff.sender_records import PendingWrite
from triton_repo.handoff.sender_transfers import SenderTransfers
from triton_repo.handoff.settings import ReceiverSettings, SenderSettings
from triton_repo.handoff.slots import SlotPool
from triton_repo.handoff.wire import decode_message

DESCRIPTION = RowsDescription(hidden=1, levels=1, merge=1, dtype="FP32", engine="simulated")
# Never tired, so that whatever does not end is stuck.
RECEIVER = ReceiverSettings(stall_seconds=10, attempts=1_000_000, corrupt_blocks=1_000_000)
# Rows of a few transfers only, so that it is busy at times.
SENDER = SenderSettings(retention_seconds=30, held_bytes=20 * DESCRIPTION.token_bytes)
STALL = RECEIVER.stall_seconds
RETENTION = SENDER.retention_seconds


class Buffers:
    """Block buffers as plain memory, written by the world."""

    def __init__(self, slots: int, block: int) -> None:
        self.slots, self.slot_bytes = slots, block * DESCRIPTION.token_bytes
        self.memory = np.zeros((slots, self.slot_bytes), np.uint8)

    def read(self, slot: int, payload: None, into: np.ndarray) -> None:
        np.copyto(into, self.memory[slot, :into.nbytes])


class Stream:
    """Both ends of a stream; `cut` when nothing passes any more, `lost` when the receiver knows."""

    def __init__(self, world: World, number: int, slots: int, block: int) -> None:
        self.id = self.session = str(number)
        self._world = world
        self.buffers = Buffers(slots, block)
        self.slots = SlotPool(slots)
        self.quarantine = Quarantine(self.slots.give_back)
        self.cut = self.lost = False
        self.known_to = world.sender

    def send(self, message: Message, payload: np.ndarray | None = None) -> None:
        if not self.cut:
            self._world.up.append((self, message))

    def write(self, write: PendingWrite) -> None:
        self._world.writes.append((self, write))


class Reply:
    def __init__(self, world: World, stream: Stream) -> None:
        self._world, self._stream = world, stream

    def send(self, message: bytes, payload: None) -> None:
        if not self._stream.cut:
            self._world.down.append((self._stream, decode_message(message)))

    def finish(self) -> None:
        pass

    def cancelled(self) -> bool:
        return self._stream.cut


@dataclass
class Asked:
    """A fetch, and what a test knows of it."""

    fetch: Fetch
    job: EncodeJob
    encodings: list[np.ndarray] = field(default_factory=list)
    cancelled: bool = False
    failed: bool = False
    outcome: np.ndarray | Exception | None = None


class World:
    """One language server, one encode server; every method is one thing that can happen.

    Attributes:
        up, down: messages under way, each with its stream.
        tasks: given to the encoder and not delivered.
        writes: blocks to be written, each with its stream.
        asked: fetches by transfer.
        corruptions: bytes of slots damaged so far.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.up: list[tuple[Stream, Message]] = []
        self.down: list[tuple[Stream, Message]] = []
        self.tasks: list[EncodeTask] = []
        self.writes: list[tuple[Stream, PendingWrite]] = []
        self.asked: dict[str, Asked] = {}
        self.streams: list[Stream] = []
        self.corruptions = 0
        self._waiting: list[queue.SimpleQueue] = []
        self._writing: tuple[Stream, PendingWrite] | None = None
        self._encodings = 0
        self.start_sender()

    # ---- the language side

    def start(self, tokens: int) -> None:
        job = EncodeJob(f"request-{len(self.asked)}", bytes([len(self.asked)]) * 32, b"", "image", (1, 1, tokens))
        fetch = Fetch(job, DESCRIPTION, RECEIVER, self._want_stream)
        self.asked[fetch.transfer] = Asked(fetch, job)
        self._want_stream(fetch.events)

    def open(self, slots: int, block: int) -> None:
        """The stream that is wanted can be had."""
        if self._waiting:
            self.streams.append(Stream(self, len(self.streams), slots, block))
            waiting, self._waiting = self._waiting, []
            for events in waiting:
                events.put(Opened(self.streams[-1]))

    def refuse(self) -> None:
        """It cannot be had now."""
        waiting, self._waiting = self._waiting, []
        for events in waiting:
            events.put(NotOpened(Unreachable("not now")))

    def run(self, asked: Asked) -> None:
        """A fetch sees the next of what has happened."""
        if asked.outcome is None and not asked.fetch.events.empty():
            asked.fetch.take(asked.fetch.events.get(), self.now)
            self._look(asked)

    def cancel(self, asked: Asked) -> None:
        if asked.outcome is None:
            asked.cancelled = True
            asked.fetch.look_at_clock(self.now, np.inf, lambda: True)
            self._look(asked)

    def notice(self) -> None:
        """The receiver finds that its stream is cut."""
        for stream in self.streams:
            if stream.cut and not stream.lost:
                stream.lost = True
                for asked in self.asked.values():
                    asked.fetch.events.put(Lost(stream, Unreachable("cut")))

    def heartbeat(self) -> None:
        for stream in self.streams:
            if not stream.lost:
                for closing in stream.quarantine.pending():
                    stream.send(closing)

    def _want_stream(self, events: queue.SimpleQueue) -> None:
        if self.streams and not self.streams[-1].lost:
            events.put(Opened(self.streams[-1]))
        else:
            self._waiting.append(events)

    def _look(self, asked: Asked) -> None:
        if asked.fetch.over and asked.outcome is None:
            asked.fetch.leave()
            try:
                asked.outcome = asked.fetch.result()
            except Exception as error:
                asked.outcome = error

    # ---- the network

    def deliver_up(self, index: int) -> None:
        stream, message = self.up.pop(index)
        reply = Way(Reply(self, stream))
        match message:
            case messages.Request() | messages.Resume() if stream.known_to is not self.sender:
                reply.send(messages.Rejected(Unreachable.code, "the stream is not known"))
            case messages.Request() | messages.Resume():
                self.sender.asked(message, None, stream, reply)
            case messages.Grant():
                self.sender.granted(message)
            case messages.Release() | messages.Cancel():
                self.sender.closing(message, reply)

    def deliver_down(self, index: int) -> None:
        stream, message = self.down.pop(index)
        if isinstance(message, messages.Rejected):
            self.cut()
            return
        asked = self.asked[message.transfer]
        if isinstance(message, messages.Closed):
            stream.quarantine.closed(message.transfer)
        elif asked.outcome is None:
            asked.fetch.events.put(Said(stream, message, None))
        elif message.transfer not in stream.quarantine and not isinstance(message, messages.Failed):
            stream.send(messages.Cancel(message.transfer))

    def cut(self) -> None:
        """Nothing passes on the stream any more."""
        for stream in self.streams:
            stream.cut = True
        self.up.clear()
        self.down.clear()

    # ---- the encode side

    def start_sender(self) -> None:
        """As after a kill: of what it was doing, nothing is left."""
        self.tasks.clear()
        self.writes.clear()
        self._writing = None
        self.sender = SenderTransfers(self.tasks.append, DESCRIPTION, SENDER)

    def encode(self, index: int) -> None:
        """Each encoding has values of its own, as encodings in different groups may."""
        task = self.tasks.pop(index)
        self._encodings += 1
        rows = (np.arange(DESCRIPTION.tokens(task.job.grid) * 2, dtype=np.float32) + 1000 * self._encodings)[:, None]
        for asked in self.asked.values():
            if asked.job.image_hash == task.job.image_hash:
                asked.encodings.append(rows)
        task.deliver(rows)

    def fail(self, index: int) -> None:
        task = self.tasks.pop(index)
        for asked in self.asked.values():
            asked.failed |= asked.job.image_hash == task.job.image_hash
        task.deliver(RuntimeError("the engine broke"))

    def write(self, error: str | None = None) -> None:
        """Half a block: the first half of the next, or the second half of the one that was begun, if nothing fails."""
        if self._writing is None:
            if self.writes:
                self._writing = self.writes.pop(0)
                self._put(*self._writing, second_half=False)
            return
        stream, write = self._writing
        self._writing = None
        if error is None:
            self._put(stream, write, second_half=True)
        self.sender.written(write, None, checksum(write.rows), error)

    def _put(self, stream: Stream, write: PendingWrite, second_half: bool) -> None:
        slot, half = write.block.slot, len(write.rows) // 2
        if not stream.lost:
            assert self._owner(stream, slot) == write.transfer.machine.transfer, "written to another's slot"
        part = slice(half, len(write.rows)) if second_half else slice(0, half)
        stream.buffers.memory[slot, part] = write.rows[part]

    def _owner(self, stream: Stream, slot: int) -> str | None:
        """The transfer that a slot is kept for."""
        owners = [transfer for transfer, (_, slots) in stream.quarantine._kept.items() if slot in slots]
        owners += [transfer for transfer, asked in self.asked.items() if asked.outcome is None
                   and asked.fetch._stream is stream and slot in asked.fetch._machine.held]
        assert len(owners) <= 1 and not (owners and slot in stream.slots._free), "a slot has two owners"
        return owners[0] if owners else None

    # ---- both

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for asked in self.asked.values():
            if asked.outcome is None:
                asked.fetch.look_at_clock(self.now, np.inf, lambda: False)
                self._look(asked)
        self.sender.tick(self.now, set())

    def corrupt(self, byte: int) -> None:
        """Damage a byte of the block that is there and not read yet, if there is one."""
        for stream, message in self.down:
            if isinstance(message, messages.Block):
                size = message.tokens * DESCRIPTION.token_bytes
                stream.buffers.memory[message.slot, byte % size] ^= 0x40
                self.corruptions += 1
                return
