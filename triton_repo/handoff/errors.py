"""What can go wrong in a hand-off. Each error says whether another encode server may be tried."""

from __future__ import annotations

from qwen3vl.errors import InvalidRequest, Overloaded, Qwen3VLError


class HandoffError(Qwen3VLError):
    """Base of all errors of a hand-off.

    Attributes:
        code: names the error in messages between the two sides.
        another_may_help: whether the same job may succeed at another encode server.
    """

    code = "handoff"
    another_may_help = True


class Unreachable(HandoffError):
    """There is no connection to the encode server, or it broke and could not be had again."""

    code = "unreachable"


class TimedOut(HandoffError):
    """The rows were not there by the deadline."""

    code = "timed_out"


class VersionMismatch(HandoffError):
    """The other side speaks another version of the protocol."""

    code = "version_mismatch"


class TypeMismatch(HandoffError):
    """The other side has other rows: another engine, hidden size, dtype or number of levels or tokens."""

    code = "type_mismatch"


class CorruptBlock(HandoffError):
    """A block did not have its checksum, again and again."""

    code = "corrupt_block"


class ProtocolError(HandoffError):
    """The other side said something that is no message, or none that belongs here."""

    code = "protocol_error"


class TransportFailed(HandoffError):
    """The chosen transport does not work between these two sides; gRPC may."""

    code = "transport_failed"


class EncodeFailed(HandoffError):
    """The encode server failed at the job, which is not known to be at fault."""

    code = "encode_failed"


class Busy(HandoffError, Overloaded):
    """The encode server has as much to do as it takes."""

    code = "busy"


class Refused(HandoffError, InvalidRequest):
    """The encode server finds the media invalid: the message is that of its `InvalidRequest`."""

    code = "refused"
    another_may_help = False


class Cancelled(HandoffError):
    """The side that asked gave up, or closed the connection."""

    code = "cancelled"
    another_may_help = False


_BY_CODE = {kind.code: kind for kind in (Unreachable, TimedOut, VersionMismatch, TypeMismatch, CorruptBlock,
                                         ProtocolError, TransportFailed, EncodeFailed, Busy, Refused, Cancelled)}


def error_from(code: str, text: str) -> HandoffError:
    """The error that the other side named; a code of a later version is an `EncodeFailed`."""
    return _BY_CODE.get(code, EncodeFailed)(text)


def error_of(error: Exception) -> HandoffError:
    """What an encoder's exception is to the language side."""
    if isinstance(error, HandoffError):
        return error
    if isinstance(error, InvalidRequest):
        return Refused(str(error))
    if isinstance(error, Overloaded):
        return Busy(str(error))
    return EncodeFailed(f"{type(error).__name__}: {error}")
