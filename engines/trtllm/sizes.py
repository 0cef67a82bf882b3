"""What a TensorRT-LLM engine holds at once."""

from __future__ import annotations

from dataclasses import dataclass, fields

from qwen3vl.errors import ArtifactError


@dataclass(frozen=True)
class EngineSizes:
    """Sizes that are fixed when an engine is built.

    Attributes:
        max_batch: requests in flight.
        max_num_tokens: tokens of all requests in one step.
        max_visual_tokens: visual tokens of one request; each has 1 + D rows in its prompt table.
        prompt_tokens: the longest prompt.
        total_tokens: the longest sequence, prompt and answer: the length of M-RoPE's tables.
    """

    max_batch: int
    max_num_tokens: int
    max_visual_tokens: int
    prompt_tokens: int
    total_tokens: int

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ArtifactError(f"--{field.name.replace('_', '-')} is {getattr(self, field.name)}, expected a "
                                    "number above 0")
        if self.prompt_tokens >= self.total_tokens:
            raise ArtifactError(f"--prompt-tokens is {self.prompt_tokens}, expected less than {self.total_tokens}, the "
                                "--max-length of the export: an answer needs room")
        if self.max_visual_tokens > self.prompt_tokens:
            raise ArtifactError(f"--max-visual-tokens is {self.max_visual_tokens}, expected at most --prompt-tokens = "
                                f"{self.prompt_tokens}: they are part of the prompt")

    def table_rows(self, rows_per_token: int) -> int:
        """Rows of the engine's prompt table: those of all requests in flight."""
        return self.max_batch * rows_per_token * self.max_visual_tokens
