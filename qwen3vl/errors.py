"""The errors users see. Each message names the thing, its value, what was expected and the fix."""


class Qwen3VLError(Exception):
    """Base of every error this project raises on purpose."""


class CheckpointError(Qwen3VLError):
    """A checkpoint's files or configuration are missing, inconsistent or of an unsupported architecture."""


class InvalidRequest(Qwen3VLError):
    """A request cannot be served as asked; reported to clients as the protocol's invalid-argument error."""


class ArtifactError(Qwen3VLError):
    """A built artifact is missing, stale or does not match what its consumer expects."""


class Overloaded(Qwen3VLError):
    """The server's queue is full; the same request may succeed later."""
