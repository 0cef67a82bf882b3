"""What error messages begin with, so that clients know whose fault it is.

HTTP reports every error of an ensemble as 400, and gRPC streams carry messages without status codes (but for a mode
that crashes tritonserver before mid-2026: triton-inference-server/server, pull request 8708). The message tells.
"""

from __future__ import annotations

# The same request may succeed later.
BUSY_PREFIX = "server busy: "
# Triton's own words where too many requests wait for a model.
TRITON_BUSY = "Exceeds maximum queue size"
# No fault of the client's.
INTERNAL_PREFIX = "internal error: "


def status_code(message: str) -> str:
    """The gRPC status code of an error of the ensemble, by its message."""
    if BUSY_PREFIX in message or TRITON_BUSY in message:
        return "UNAVAILABLE"
    return "INTERNAL" if INTERNAL_PREFIX in message else "INVALID_ARGUMENT"
