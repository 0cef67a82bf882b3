"""What the decoder of a build takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from engines.description import EngineDescription
from engines.trtllm.record import RECORD_FILE, TrtllmRecord
from qwen3vl.errors import ArtifactError
from qwen3vl.limits import Limits, default_prompt_tokens


@dataclass(frozen=True)
class Capacity:
    """Lengths in tokens, and requests at the same time; None for as many as there is memory for."""

    total_tokens: int
    prompt_tokens: int
    slots: int | None = None

    @classmethod
    def of(cls, engine_dir: Path) -> Capacity:
        """Of the engine in an `engines/` folder where it was built for certain sizes, else of the model."""
        description = EngineDescription.load(engine_dir)
        folder = engine_dir / description.folder("decoder")
        if (folder / RECORD_FILE).is_file():
            record = TrtllmRecord.load(folder)
            return cls(record.sizes.total_tokens, record.sizes.prompt_tokens, record.max_slots)
        longest = description.config.text.max_position_embeddings
        return cls(longest, longest)

    def default_limits(self) -> Limits:
        """The project's limits, lengths cut to what the decoder takes."""
        limits = Limits()
        total = min(limits.total_tokens, self.total_tokens)
        prompt = min(limits.prompt_tokens, default_prompt_tokens(total), self.prompt_tokens)
        return replace(limits, total_tokens=total, prompt_tokens=prompt)

    def require(self, limits: Limits, slots: int) -> None:
        """Raise an ArtifactError where limits or slots go beyond."""
        for name, wanted, most in (("limit total_tokens", limits.total_tokens, self.total_tokens),
                                   ("limit prompt_tokens", limits.prompt_tokens, self.prompt_tokens),
                                   ("slots", slots, self.slots)):
            if most is not None and wanted > most:
                raise ArtifactError(f"{name} is {wanted}, expected at most {most}, for which the model or its engine "
                                    "was made: lower it with `qwen3vl compose`")
