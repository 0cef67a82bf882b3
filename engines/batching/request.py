"""What goes into the batcher and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from engines.visual_rows import VisualRows
from qwen3vl.sampling import SamplingParams


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt, prepared.

    Attributes:
        token_ids: int32 [S]; visual token i has the id `vocab_size + (1 + D) * i`.
        position_ids: int32 [3, S], M-RoPE positions of the prompt.
        rope_delta: what to add to a generated token's index to get its position.
        visual_rows: float [R, hidden], the table that the visual ids point into; `DeviceRows` for a decoder on their
            GPU alone, which lets go of them with the prompt's first chunk.
        sampling: how to generate.
    """

    token_ids: np.ndarray
    position_ids: np.ndarray
    rope_delta: int
    visual_rows: VisualRows
    sampling: SamplingParams


@dataclass(frozen=True)
class Emission:
    """A group of generated tokens whose text can be shown.

    Its text is `b"".join(token_bytes[i] for i in token_ids)[:text_bytes]` as UTF-8: it never ends within a character
    that later tokens complete, nor within what may become a stop string.

    Attributes:
        token_ids: int32 [n].
        text_bytes: how many bytes of the tokens are text; less than all where a stop string cuts the last token.
        finish_reason: "" while more follows, else "stop", "length" or "cancelled".
        prompt_tokens: tokens of the prompt, visual tokens included.
        completion_tokens: tokens generated so far, the end-of-text token included.
    """

    token_ids: np.ndarray
    text_bytes: int
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


OnOutput = Callable[[Emission | Exception], None]


@dataclass(frozen=True)
class BatcherStats:
    """Counters since the start, and what is going on now."""

    active_slots: int = 0
    queued: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    decode_steps: int = 0


@dataclass
class Ticket:
    """A submitted request, to cancel it by. Cancelling a finished request does nothing."""

    cancelled: bool = field(default=False)

    def cancel(self) -> None:
        self.cancelled = True
