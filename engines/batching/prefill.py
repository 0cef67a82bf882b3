"""Whose prompt is processed next, and how much of it: the policy between two decode steps, without an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from engines.batching.chunk_time import ChunkTime
from engines.batching.overrun import Overrun
from qwen3vl.errors import ArtifactError

# While no stream waits for its next token, chunks may take this many times as long: longer ones cost less for each
# token, and other prompts and cancellations still get their turn.
ALONE = 10
# Share of the stall time that is kept back at most for what makes turns late: where that is more, images being encoded
# on the same device for one, prompts would pay for what short chunks cannot help.
MOST_LATE = 0.15


class Prompt(Protocol):
    """What is known of a prompt: how many of its tokens are not in the cache yet."""

    @property
    def remaining(self) -> int: ...


P = TypeVar("P", bound=Prompt)


@dataclass(frozen=True)
class PrefillSettings:
    """How long prompts may hold up running streams.

    Attributes:
        stall_seconds: the time between two tokens of a stream at most, chunks and decode step together, as long as
            prompts then get on at half of the speed they could have. Where the step leaves them less, this is what
            chunks alone may take at most.
        min_tokens: tokens of a turn's first chunk at least. Where these alone take longer than the stall time, chunks
            are as long as half of the speed needs.
        max_tokens: tokens of a chunk at most, for the engine's working memory grows with it.
    """

    stall_seconds: float = 0.05
    min_tokens: int = 32
    max_tokens: int = 2048

    def __post_init__(self) -> None:
        if not self.stall_seconds > 0:
            raise ArtifactError(f"stall_seconds is {self.stall_seconds}, expected a time above 0")
        if not 0 < self.min_tokens <= self.max_tokens:
            raise ArtifactError(f"chunks of {self.min_tokens} to {self.max_tokens} tokens, expected 0 < min_tokens <= "
                                "max_tokens")


@dataclass(frozen=True)
class Chunk(Generic[P]):
    """The next tokens to process of one prompt."""

    prompt: P
    tokens: int


class PrefillScheduler(Generic[P]):
    """Decides which prompt gets the next chunk and how long it is.

    Order: the oldest prompt first, but those with fewer tokens left may pass, as many tokens as the oldest gets. So, as
    long as there are slots, half of the work at least is for the oldest, and a prompt waits for at most twice the work
    that was there when it came, whatever comes after it. Prompts of equal length never pass each other.

    Length: a turn, that is all chunks between two decode steps and the second of these, is to take `stall_seconds`,
    going by what recent chunks and the last step took, and by how much longer than that recent turns took
    (`Overrun`), as far as that is `MOST_LATE` of `stall_seconds`. But half of a turn at least is for what each token of
    a prompt adds, not for the step and what every chunk costs: shorter chunks would stall streams little less, and cost
    prompts much more. This half may bring the chunks up to `stall_seconds`, or to the length of the shortest one.

    Attributes:
        prompts: all that are not in the cache completely, the oldest first.
        started: those of them that have a slot in the cache.

    Args:
        settings: how long prompts may hold up running streams.
        slots: sequences that fit the cache.
    """

    def __init__(self, settings: PrefillSettings, slots: int):
        self.prompts: list[P] = []
        self.started: list[P] = []
        self._settings, self._slots = settings, slots
        self._time = ChunkTime(first_tokens=settings.min_tokens)
        self._overrun = Overrun()
        self._step = 0.0  # seconds of the last decode step
        self._turn = 0.0  # seconds of prefill since then
        self._expected = 0.0  # of the turn's chunks
        self._passed = 0  # tokens of prompts that passed, less those of the oldest ones

    @property
    def waiting(self) -> int:
        """Prompts without a slot."""
        return len(self.prompts) - len(self.started)

    def add(self, prompt: P) -> None:
        self.prompts.append(prompt)

    def remove(self, prompt: P) -> None:
        """Forget a prompt that is in the cache, cancelled or failed."""
        self.prompts.remove(prompt)
        if prompt in self.started:
            self.started.remove(prompt)

    def begin_turn(self, step_seconds: float, turn_seconds: float) -> None:
        """A decode step has been taken.

        Args:
            step_seconds: its time; 0 if there was nothing to decode.
            turn_seconds: of the turn that has ended, its chunks and all else.
        """
        if self._expected and step_seconds:
            self._overrun.observe(self._expected + self._step, turn_seconds)
        self._step, self._turn, self._expected = step_seconds, 0.0, 0.0

    def next_chunk(self, running: int) -> Chunk[P] | None:
        """What to process now; None if there is nothing, no slot for it, or no time in this turn.

        A prompt that gets its first chunk is in `started` from now on: it needs a slot.

        Args:
            running: streams that wait for their next token, each in a slot.
        """
        prompt = self._pick(running)
        tokens = min(prompt.remaining, self._length(prompt.remaining, running)) if prompt else 0
        if not tokens:
            return None
        if prompt not in self.started:
            self.started.append(prompt)
        if running:
            self._expected += self._time.seconds(tokens)
        return Chunk(prompt, tokens)

    def has_next(self, running: int) -> bool:
        """Whether a turn that begins now would have a chunk, with so many running streams."""
        return self._pick(running) is not None

    def ran(self, chunk: Chunk[P], seconds: float) -> None:
        """A chunk was processed, in so much time. To be told before its prompt is removed."""
        self._time.observe(chunk.tokens, seconds)
        self._turn += seconds
        passed = chunk.prompt is not self.prompts[0]
        self._passed += chunk.tokens if passed else -chunk.tokens
        # What the oldest got while there was nobody to pass does not count for ever.
        self._passed = max(self._passed, -self._settings.max_tokens)

    def _pick(self, running: int) -> P | None:
        # With several prompts in the cache one slot stays free: see `Slots.start`.
        free = self._slots - running - len(self.started)
        may_start = free >= (2 if self.started else 1)
        candidates = self.prompts if may_start else [prompt for prompt in self.prompts if prompt in self.started]
        if not candidates:
            return None
        oldest = candidates[0]
        # Until the oldest has a slot, no other gets one.
        if self._passed > 0 or oldest not in self.started:
            return oldest
        return min(candidates, key=lambda prompt: prompt.remaining)

    def _length(self, remaining: int, running: int) -> int:
        """Tokens that fit what is left of the turn, 0 for none; a turn's first chunk has some in any case."""
        settings, even = self._settings, self._time.even_tokens(self._step)
        tokens = min(self._time.tokens_within(self._allowed(running, even) - self._turn), settings.max_tokens)
        if tokens >= min(settings.min_tokens, remaining):
            return tokens
        if self._turn:
            return 0
        return min(max(even, settings.min_tokens), settings.max_tokens)

    def _allowed(self, running: int, even: int) -> float:
        """Seconds of this turn that are for prompts; with `even` tokens in a chunk they get on at half speed."""
        stall = self._settings.stall_seconds
        if not running:
            return ALONE * stall
        late = min(self._overrun.seconds, MOST_LATE * stall)
        return min(stall, max(stall - self._step - late, self._time.seconds(even)))
