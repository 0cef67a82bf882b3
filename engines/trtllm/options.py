"""How a TensorRT-LLM engine is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.trtllm.sizes import EngineSizes
from export.build_folder import BuildFolder
from export.trtllm.plan import Deployment
from qwen3vl.limits import LIMITS_FILE, Limits, default_prompt_tokens

# Where plugins/deepstack_add/CMakeLists.txt puts it, seen from the project's folder.
PLUGIN_LIBRARY = Path("build/plugin/libdeepstack_add_plugin.so")


@dataclass(frozen=True)
class TrtllmBuildOptions:
    """Options of `qwen3vl build --target trtllm`.

    Attributes:
        plugin: the library of the DeepstackAdd plugin; None for TensorRT's own operations.
        max_batch, max_num_tokens, max_visual_tokens: as in `EngineSizes`; None for the defaults of `Deployment`, the
            last one cut to what a prompt can hold.
        prompt_tokens: the longest prompt; None for the deployment's limit, cut to leave room for an answer.
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
            ArtifactError: an option is not above 0 or does not fit the others.
        """
        default = Deployment()
        prompt = _given(self.prompt_tokens,
                        min(_limits(build).prompt_tokens, max(1, default_prompt_tokens(max_length))))
        return EngineSizes(
            _given(self.max_batch, default.max_batch), _given(self.max_num_tokens, default.max_num_tokens),
            _given(self.max_visual_tokens, min(default.max_visual_tokens, prompt)), prompt, max_length)


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _limits(build: BuildFolder) -> Limits:
    """The limits of the deployment in this folder, if it was composed already; else the project's."""
    path = build.path / LIMITS_FILE
    return Limits.load(path) if path.exists() else Limits()
