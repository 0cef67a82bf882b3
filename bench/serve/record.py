"""What happened to one request."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise


@dataclass
class Record:
    """One request under load. Times are seconds of one monotonic clock.

    Attributes:
        index: its number in the workload.
        due: when it was to be sent.
        sent: when it was.
        ended: when the last piece or an error came, or the client hung up.
        pieces: when each piece of the answer came, and the tokens generated up to it.
        text: the answer so far.
        prompt_tokens: as the server counted them.
        finish_reason: of an answer that was read to its end, else "".
        hung_up: whether the client ended it.
        error: kind of error, None for none; `message` is the server's.
    """

    index: int
    due: float
    sent: float
    ended: float = 0.0
    pieces: list[tuple[float, int]] = field(default_factory=list)
    text: str = ""
    prompt_tokens: int = 0
    finish_reason: str = ""
    hung_up: bool = False
    error: str | None = None
    message: str = ""

    @property
    def answered(self) -> bool:
        return bool(self.finish_reason)

    @property
    def tokens(self) -> int:
        """Generated tokens that arrived."""
        return self.pieces[-1][1] if self.pieces else 0

    @property
    def first(self) -> float:
        """Seconds from when it was due to the first piece."""
        return self.pieces[0][0] - self.due

    @property
    def total(self) -> float:
        """Seconds from when it was due to the last piece."""
        return self.pieces[-1][0] - self.due

    @property
    def gaps(self) -> list[float]:
        """Seconds from one token to the next, after the first piece; tokens of one piece share the time before it."""
        return [gap for (before, had), (after, has) in pairwise(self.pieces) if has > had
                for gap in [(after - before) / (has - had)] * (has - had)]
