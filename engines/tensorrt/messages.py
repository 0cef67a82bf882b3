"""TensorRT's log, kept instead of printed: its errors become ours, and its report says what an engine consists of."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from types import ModuleType

REPORT_START = re.compile(r"^(Layers|Engine Layer Information):", re.MULTILINE)


def message_log(trt: ModuleType, keep: int | None = None):
    """A logger for TensorRT that collects everything down to the most detailed level.

    Args:
        keep: how many of the latest messages, and of the latest errors; by default all of them.
    """

    class MessageLog(trt.ILogger):
        """Attributes: `messages`, in order; `errors`, those of severity error and worse."""

        def __init__(self):
            trt.ILogger.__init__(self)
            self.messages: deque[str] = deque(maxlen=keep)
            self.errors: deque[str] = deque(maxlen=keep)

        def log(self, severity, message: str) -> None:
            self.messages.append(message)
            if severity <= trt.ILogger.ERROR:
                self.errors.append(message)

    return MessageLog()


def layer_report(messages: Sequence[str]) -> str:
    """TensorRT's description of every layer of the engine just built, with types; empty if it gave none.

    It is what the engine inspector says, and comes while building, so it needs no GPU.
    """
    return next((message for message in reversed(messages) if REPORT_START.match(message)), "")


def activation_bytes(messages: Sequence[str]) -> tuple[int, ...]:
    """GPU memory for activations of each profile, as the builder reports it; empty if it does not."""
    found = (re.match(r"Total Activation Memory: (\d+) bytes", message) for message in messages)
    return tuple(int(match[1]) for match in found if match)
