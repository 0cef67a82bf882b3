"""All transfers of an encode server: their state machines, and the rows and ways back that belong to them.

Nothing here waits, and no thread is started: `sender` does both.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable

import numpy as np

from triton_repo.handoff import messages
from triton_repo.handoff.blocks import GrantedBlock
from triton_repo.handoff.encode_task import Encoder, EncodeTask
from triton_repo.handoff.errors import Busy, ProtocolError, TypeMismatch, Unreachable, error_of
from triton_repo.handoff.job import EncodeJob, RowsDescription
from triton_repo.handoff.reply import Way
from triton_repo.handoff.sender_actions import SenderActions
from triton_repo.handoff.sender_records import PendingWrite, SenderStats, Session, Totals, Transfer
from triton_repo.handoff.sender_transfer import Action, Forget, SayBlock, SenderTransfer
from triton_repo.handoff.settings import SenderSettings
from triton_repo.handoff.states import State

# Ends of transfers that are remembered: a request that its own end has overtaken comes soon behind it.
ENDS = 4096


class SenderTransfers:
    """Used from any thread.

    Args:
        encode: gets each job.
        description: the rows that it makes.
        settings: how patient and large this side is.
    """

    def __init__(self, encode: Encoder, description: RowsDescription, settings: SenderSettings) -> None:
        self._description, self._settings = description, settings
        self._actions = SenderActions(encode, description)
        # Guards the transfers' state. Messages are sent without it: the protocol does not depend on their order.
        self._lock = threading.Lock()
        self._transfers: dict[str, Transfer] = {}
        # Transfers that their receivers have ended, the oldest first: a request for one that comes now grants slots
        # that may be another's.
        self._ended: dict[str, None] = {}
        self._totals = Totals()

    def stats(self) -> SenderStats:
        """What is going on."""
        with self._lock:
            totals = self._totals
            return SenderStats(len(self._transfers), self._outstanding_rows(), self._held(), totals.blocks,
                               totals.bytes, totals.ended[State.SUCCESS], totals.ended[State.FAILED])

    def rows_for_others(self, session: Session) -> int:
        """As `SenderStats.outstanding_rows`, without those of this session."""
        with self._lock:
            return self._outstanding_rows(besides=session)

    def asked(self, message: messages.Request | messages.Resume, payload: np.ndarray | None, session: Session,
              way: Way) -> bool:
        """A transfer is begun or taken up again. Returns whether `way` is kept for what comes of it."""
        blocks = _blocks(message)
        with self._lock:
            if message.transfer in self._ended:
                return False
            transfer = self._transfers.get(message.transfer)
            if transfer is None:
                if isinstance(message, messages.Resume):
                    way.send(messages.Unknown(message.transfer, message.attempt))
                    return False
                if (held := self._held()) > self._settings.held_bytes:
                    busy = Busy(f"{held} bytes of visual rows wait to be fetched, more than held_bytes = "
                                f"{self._settings.held_bytes}")
                    way.send(messages.Failed(message.transfer, message.attempt, busy.code, str(busy)))
                    return False
                transfer = self._transfers[message.transfer] = self._transfer(message, payload, session, way)
            before = transfer.machine.attempt
            actions = transfer.machine.asked(message.attempt, blocks)
            if transfer.machine.attempt == before:
                return False
            earlier, transfer.way, transfer.session = transfer.way, way, session
        if earlier is not way:
            earlier.finish()
        self._do(transfer, actions)
        return True

    def granted(self, grant: messages.Grant) -> None:
        """The receiver has slots for blocks."""
        blocks = _blocks(grant)
        self._step(grant.transfer, lambda machine: machine.granted(grant.attempt, blocks))

    def closing(self, message: messages.Release | messages.Cancel, way: Way) -> None:
        """The receiver needs a transfer no more."""
        state = State.SUCCESS if isinstance(message, messages.Release) else State.FAILED
        with self._lock:
            self._ended[message.transfer] = None
            if len(self._ended) > ENDS:
                del self._ended[next(iter(self._ended))]
        if not self._step(message.transfer, lambda machine: machine.closed(state)):
            way.send(messages.Closed(message.transfer))

    def written(self, write: PendingWrite, payload: np.ndarray | None, digest: int, error: str | None) -> None:
        """A block is in its slot: see `OnWritten`."""
        transfer = write.transfer
        with self._lock:
            actions = transfer.machine.written(error)
            if any(isinstance(action, SayBlock) for action in actions):
                transfer.sent_tokens += write.block.tokens
                self._totals.blocks += 1
                self._totals.bytes += write.rows.nbytes
        self._do(transfer, actions, payload, digest)

    def tick(self, now: float, silent: set[str]) -> None:
        """Look after transfers whose receivers are gone.

        Args:
            now: by `time.monotonic`.
            silent: sessions that give no sign of life.
        """
        with self._lock:
            transfers = list(self._transfers.values())
        for transfer in transfers:
            with self._lock:
                machine, actions = transfer.machine, []
                if machine.attached and (transfer.session.id in silent or transfer.way.gone()):
                    actions += machine.detached(now)
                    transfer.way.finish()
                actions += machine.tick(now, self._settings.retention_seconds)
            self._do(transfer, actions)

    def close(self) -> None:
        """Fail all of them."""
        with self._lock:
            transfers, self._transfers = list(self._transfers.values()), {}
        error = Unreachable("the encode server is being stopped")
        for transfer in transfers:
            machine = transfer.machine
            transfer.way.send(messages.Failed(machine.transfer, machine.attempt, error.code, str(error)))
            transfer.let_go()

    def _transfer(self, request: messages.Request, payload: np.ndarray | None, session: Session, way: Way) -> Transfer:
        try:
            job = EncodeJob(request.request_id, bytes.fromhex(request.image_hash),
                            b"" if payload is None else payload.tobytes(), request.kind, request.grid)
            tokens = self._description.tokens(job.grid)
        except (ValueError, TypeError) as error:
            raise ProtocolError(f"a request of transfer {request.transfer} cannot be read: {error}") from None
        transfer = Transfer(SenderTransfer(request.transfer, tokens), job, tokens, way, session)
        transfer.task = EncodeTask(job, lambda rows: self._encoded(transfer, rows))
        return transfer

    def _encoded(self, transfer: Transfer, rows: np.ndarray | Exception) -> None:
        try:
            outcome = rows if isinstance(rows, Exception) else self._checked(transfer, rows)
        except TypeMismatch as error:
            outcome = error
        with self._lock:
            if transfer.task.cancelled():
                return
            if isinstance(outcome, Exception):
                actions = transfer.machine.fail(error_of(outcome))
            else:
                transfer.rows, transfer.encoding = outcome, secrets.token_hex(8)
                actions = transfer.machine.encoded()
        self._do(transfer, actions)

    def _checked(self, transfer: Transfer, rows: np.ndarray) -> np.ndarray:
        description = self._description
        shape = (transfer.tokens * description.rows_per_token, description.hidden)
        if rows.shape != shape or rows.dtype != description.numpy_dtype:
            raise TypeMismatch(f"the encoder made {rows.dtype} {list(rows.shape)} for a grid of {transfer.job.grid}, "
                               f"expected {description.numpy_dtype} {list(shape)}")
        return np.ascontiguousarray(rows)

    def _step(self, name: str, event: Callable[[SenderTransfer], list[Action]]) -> bool:
        """Returns whether there is such a transfer."""
        with self._lock:
            transfer = self._transfers.get(name)
            actions = event(transfer.machine) if transfer else []
        if transfer:
            self._do(transfer, actions)
        return transfer is not None

    def _do(self, transfer: Transfer, actions: list[Action], payload: np.ndarray | None = None,
            digest: int = 0) -> None:
        for action in actions:
            if isinstance(action, Forget):
                with self._lock:
                    self._transfers.pop(transfer.machine.transfer, None)
                    self._totals.ended[transfer.machine.state] += 1
                transfer.let_go()
            else:
                self._actions.do(transfer, action, payload, digest)

    def _outstanding_rows(self, besides: Session | None = None) -> int:
        tokens = sum(max(0, transfer.tokens - transfer.sent_tokens) for transfer in self._transfers.values()
                     if transfer.machine.attached and not transfer.machine.state.over
                     and transfer.session is not besides)
        return tokens * self._description.rows_per_token

    def _held(self) -> int:
        return sum(transfer.rows.nbytes for transfer in self._transfers.values() if transfer.rows is not None)


def _blocks(message: messages.Request | messages.Resume | messages.Grant) -> list[GrantedBlock]:
    if isinstance(message, messages.Resume):
        return []
    try:
        return [GrantedBlock(*block) for block in message.blocks]
    except TypeError:
        raise ProtocolError(f"a grant of transfer {message.transfer} cannot be read: {message.blocks!r:.80}") from None
