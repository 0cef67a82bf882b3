"""What can keep a server from being measured."""

from qwen3vl.errors import Qwen3VLError


class BenchError(Qwen3VLError):
    """A measurement cannot be made as asked; the message says what to change."""
