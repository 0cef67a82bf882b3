"""The Python client of a served model.

    from client import VisionChat
    print(VisionChat().ask("How many circles?", images=["a.png"]).text)
"""

from client.answer import Answer, Delta, Usage
from client.chat import AnswerStream, VisionChat
from client.errors import BadRequest, Busy, ChatError, ServerError, ServerUnavailable, TimedOut

__all__ = ["Answer", "AnswerStream", "AsyncVisionChat", "BadRequest", "Busy", "ChatError", "Delta", "ServerError",
           "ServerUnavailable", "TimedOut", "Usage", "VisionChat"]


def __getattr__(name: str):
    if name == "AsyncVisionChat":  # loaded when used: asyncio's gRPC takes a while
        from client.async_chat import AsyncVisionChat

        return AsyncVisionChat
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
