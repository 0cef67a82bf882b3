"""What the model repository holds: its models, their tensors and how the ensemble joins them.

    preprocess -> vision_encoder -> decoder -> postprocess        ensemble `qwen3_vl_moe`
                                                                  `qwen3_vl_moe_whole`: the same, one response

Triton lets a step take inputs from one decoupled step only, and from no earlier step beside it. vision_encoder and
decoder are decoupled, so what the decoder needs from preprocess goes through vision_encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError
from triton_repo.config_pbtxt import Ensemble, PythonModel, Step, Tensor

ENSEMBLE = "qwen3_vl_moe"
WHOLE = "qwen3_vl_moe_whole"
MODEL_VERSION = "1"

# What clients send: messages or prompt, and any of the rest.
REQUEST = (
    Tensor("messages", "STRING", (1,), optional=True),
    Tensor("prompt", "STRING", (1,), optional=True),
    Tensor("images", "STRING", (-1,), optional=True),
    Tensor("videos", "STRING", (-1,), optional=True),
    Tensor("max_tokens", "INT32", (1,), optional=True),
    Tensor("temperature", "FP32", (1,), optional=True),
    Tensor("top_p", "FP32", (1,), optional=True),
    Tensor("top_k", "INT32", (1,), optional=True),
    Tensor("seed", "INT64", (1,), optional=True),
    Tensor("repetition_penalty", "FP32", (1,), optional=True),
    Tensor("stop", "STRING", (-1,), optional=True),
    Tensor("stream", "BOOL", (1,), optional=True),
)
# What they get; `usage` is JSON with prompt_tokens and completion_tokens.
ANSWER = (
    Tensor("text", "STRING", (1,)),
    Tensor("finish_reason", "STRING", (1,)),
    Tensor("usage", "STRING", (1,)),
)
# A prepared prompt; `sampling` is JSON.
PROMPT = (
    Tensor("token_ids", "INT32", (-1,)),
    Tensor("position_ids", "INT32", (3, -1)),
    Tensor("rope_delta", "INT32", (1,)),
    Tensor("sampling", "STRING", (1,)),
)
# Generated tokens. `token_counts` is prompt, completion; `probe` comes instead of tokens, see `cancellation`.
EMISSION = (
    Tensor("token_ids", "INT32", (-1,)),
    Tensor("text_bytes", "INT32", (1,)),
    Tensor("finish_reason", "STRING", (1,)),
    Tensor("token_counts", "INT32", (2,)),
    Tensor("probe", "STRING", (1,)),
)


@dataclass(frozen=True)
class Options:
    """How a deployment is run; none of it changes an answer.

    Attributes:
        slots: requests that the decoder serves at the same time.
        threads: compute threads of each engine; 0 is one for each core.
        preprocess_instances: processes that prepare prompts and images.
        whole_instances: whole answers over `infer` at the same time.
    """

    slots: int = 8
    threads: int = 0
    preprocess_instances: int = 2
    whole_instances: int = 4

    def __post_init__(self) -> None:
        for name, least in (("slots", 1), ("threads", 0), ("preprocess_instances", 1), ("whole_instances", 1)):
            if getattr(self, name) < least:
                raise ArtifactError(f"{name} is {getattr(self, name)}, expected at least {least}")


def models(config: ModelConfig, options: Options) -> list[PythonModel | Ensemble]:
    """Every model of the repository for a checkpoint of this configuration."""
    visual = (Tensor("patches", "UINT8", (-1, config.vision.patch_dim)), Tensor("grids", "INT32", (-1, 3)))
    rows = (Tensor("visual_rows", "FP32", (-1, config.text.hidden_size)),)
    threads = {"threads": str(options.threads)}
    return [
        PythonModel("preprocess", REQUEST, (*PROMPT, *visual), instances=options.preprocess_instances),
        PythonModel("vision_encoder", (*PROMPT, *visual), (*PROMPT, *rows), decoupled=True, parameters=threads),
        PythonModel("decoder", (*PROMPT, *rows), EMISSION, decoupled=True,
                    parameters={"slots": str(options.slots), **threads}),
        # One instance: several could overtake each other and mix up the order of the text.
        PythonModel("postprocess", [_optional(tensor) for tensor in EMISSION], ANSWER, decoupled=True),
        Ensemble(ENSEMBLE, REQUEST, ANSWER, _steps()),
        PythonModel(WHOLE, REQUEST, ANSWER, instances=options.whole_instances),
    ]


def _steps() -> list[Step]:
    prompt, visual = _names(PROMPT), ("patches", "grids")
    return [
        Step("preprocess", {name: name for name in _names(REQUEST)},
             {name: f"preprocessed_{name}" for name in (*prompt, *visual)}),
        Step("vision_encoder", {name: f"preprocessed_{name}" for name in (*prompt, *visual)},
             {name: f"encoded_{name}" for name in (*prompt, "visual_rows")}),
        Step("decoder", {name: f"encoded_{name}" for name in (*prompt, "visual_rows")},
             {name: f"emitted_{name}" for name in _names(EMISSION)}),
        Step("postprocess", {name: f"emitted_{name}" for name in _names(EMISSION)},
             {name: name for name in _names(ANSWER)}),
    ]


def _names(tensors: tuple[Tensor, ...]) -> tuple[str, ...]:
    return tuple(tensor.name for tensor in tensors)


def _optional(tensor: Tensor) -> Tensor:
    return Tensor(tensor.name, tensor.dtype, tensor.dims, optional=True)
