"""How a TensorRT-LLM engine is built, and the sizes that follow from it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from export.build_folder import BuildFolder
from export.trtllm.plan import Deployment
from qwen3vl.errors import ArtifactError
from qwen3vl.limits import Limits

# Where plugins/deepstack_add/CMakeLists.txt puts it, seen from the project's folder.
PLUGIN_LIBRARY = Path("build/plugin/libdeepstack_add_plugin.so")
LIMITS_FILE = "limits.json"  # of a composed deployment


@dataclass(frozen=True)
class TrtllmBuildOptions:
    """Options of `qwen3vl build --target trtllm`.

    Attributes:
        plugin: the library of the DeepstackAdd plugin; None for TensorRT's own operations.
        max_batch, max_num_tokens, max_visual_tokens: as in `Deployment`; None for its defaults, the last one cut to
            what a prompt can hold.
        prompt_tokens: the longest prompt; None for the deployment's limit, or what leaves room for an answer.
        context_logits: let the engine give logits of every prompt token, for comparison with a reference.
    """

    plugin: Path | None = PLUGIN_LIBRARY
    max_batch: int | None = None
    max_num_tokens: int | None = None
    max_visual_tokens: int | None = None
    prompt_tokens: int | None = None
    context_logits: bool = False

    def sizes(self, build: BuildFolder, max_length: int) -> EngineSizes:
        """The sizes of an engine whose sequences have at most `max_length` tokens.

        Raises:
            ArtifactError: an option does not fit the others.
        """
        given = {name: getattr(self, name) for name in ("max_batch", "max_num_tokens")
                 if getattr(self, name) is not None}
        prompt_tokens = self.prompt_tokens or min(_limits(build).prompt_tokens, max_length * 4 // 5)
        visual = self.max_visual_tokens or min(Deployment.max_visual_tokens, prompt_tokens)
        return EngineSizes(Deployment(max_visual_tokens=visual, **given), prompt_tokens, max_length)


@dataclass(frozen=True)
class EngineSizes:
    """What an engine holds.

    Attributes:
        deployment: requests in flight, their visual tokens, tokens of one step.
        prompt_tokens: longest prompt.
        total_tokens: longest sequence, prompt and answer: the length of M-RoPE's tables.
    """

    deployment: Deployment = field(default_factory=Deployment)
    prompt_tokens: int = 0
    total_tokens: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.prompt_tokens < self.total_tokens:
            raise ArtifactError(f"--prompt-tokens is {self.prompt_tokens}, expected 1 or more and less than "
                                f"{self.total_tokens}, the --max-length of the export")
        if self.deployment.max_visual_tokens > self.prompt_tokens:
            raise ArtifactError(f"--max-visual-tokens is {self.deployment.max_visual_tokens}, expected at most "
                                f"--prompt-tokens = {self.prompt_tokens}: they are part of the prompt")

    def table_rows(self, rows_per_token: int) -> int:
        """Rows of the engine's prompt table: those of all requests in flight."""
        return self.deployment.max_batch * rows_per_token * self.deployment.max_visual_tokens

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> EngineSizes:
        return cls(**{**values, "deployment": Deployment(**values["deployment"])})


def _limits(build: BuildFolder) -> Limits:
    """The limits of the deployment in this folder, if it was composed already; else the project's."""
    path = build.path / LIMITS_FILE
    return Limits.from_dict(json.loads(path.read_text())) if path.exists() else Limits()
