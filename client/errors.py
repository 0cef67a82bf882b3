"""What can go wrong when asking a server; each error has the server's own words."""

from __future__ import annotations

import re

# What Triton puts before messages of ensembles, and of requests that it refuses itself.
PREFIX = re.compile(r"^(in ensemble '[^']*', |\[request id: [^\]]*\] )+")


class ChatError(Exception):
    """Base of the client's errors."""


class ServerUnavailable(ChatError):
    """There is no server at the address, or it does not serve this model."""


class BadRequest(ChatError):
    """The request cannot be served as asked; the message says what to change."""


class Busy(ChatError):
    """The server's queue is full; the same request may succeed later."""


class TimedOut(ChatError):
    """No complete answer in the time allowed; the server was told to stop."""


class ServerError(ChatError):
    """The server failed."""


# HTTP has one status for every error of an ensemble, and gRPC streams carry none, so that most is known by the message:
# what the server's models mark as theirs, and Triton's own words.
BY_MESSAGE = {
    "server busy: ": Busy, "Exceeds maximum queue size": Busy, "internal error: ": ServerError,
    "Request for unknown model": ServerUnavailable,
    "Server not ready": ServerUnavailable, "Stub process": ServerError, "Failed to process the request": ServerError,
}
# gRPC's status codes of failed connections, and HTTP statuses.
BY_CODE: dict[str | int | None, type[ChatError]] = {
    None: BadRequest, "INVALID_ARGUMENT": BadRequest, "UNAVAILABLE": ServerUnavailable, "NOT_FOUND": ServerUnavailable,
    "DEADLINE_EXCEEDED": TimedOut, 400: BadRequest, 404: ServerUnavailable, 503: ServerUnavailable,
}


def error_from(code: str | int | None, message: str) -> ChatError:
    """The error for what a server answered.

    Args:
        code: name of the gRPC status code, or the HTTP status; None for an error within a gRPC stream.
        message: the server's message.
    """
    text = PREFIX.sub("", message)
    for beginning, kind in BY_MESSAGE.items():
        if text.startswith(beginning):
            return kind(text)
    return BY_CODE.get(code, ServerError)(text)
