"""Which requests are taken, whatever serves them."""

from __future__ import annotations

from engines.batching.request import GenerationRequest
from qwen3vl.config import ModelConfig
from qwen3vl.errors import InvalidRequest, Overloaded
from qwen3vl.limits import Limits


def require_valid(request: GenerationRequest, config: ModelConfig, limits: Limits) -> None:
    """Raise an InvalidRequest unless the request fits the model and the limits."""
    length, limit = len(request.token_ids), limits.prompt_tokens
    if not 0 < length <= limit:
        raise InvalidRequest(f"the prompt has {length} tokens, expected 1 to {limit} (limit prompt_tokens)")
    if request.position_ids.shape != (3, length):
        raise InvalidRequest(f"position_ids has shape {list(request.position_ids.shape)}, expected [3, {length}]")
    hidden = config.text.hidden_size
    if request.visual_rows.ndim != 2 or request.visual_rows.shape[1] != hidden:
        raise InvalidRequest(f"visual_rows has shape {list(request.visual_rows.shape)}, expected [rows, {hidden}]")
    ids, vocab_size, rows = request.token_ids, config.text.vocab_size, len(request.visual_rows)
    # A visual id stands for all of its token's rows, so the last of them must be in the table too.
    last_rows = ids[ids >= vocab_size] - vocab_size + config.rows_per_token
    if ids.min() < 0 or (last_rows > rows).any():
        raise InvalidRequest(f"token ids range from {ids.min()} to {ids.max()}, but there are {vocab_size} words "
                             f"and {rows} visual rows ({config.rows_per_token} for each visual token)")


def require_room(waiting: int, limit: int, what: str = "requests") -> None:
    """Raise an Overloaded error if as many are waiting as may.

    Args:
        limit: of `Limits`, `queue`.
        what: is waiting.
    """
    if waiting >= limit:
        raise Overloaded(f"{waiting} {what} are waiting, as many as the limit (queue) allows: try again later")


def shutting_down() -> Overloaded:
    """What requests get that were not finished, or come too late."""
    return Overloaded("the server is shutting down: ask another one")
