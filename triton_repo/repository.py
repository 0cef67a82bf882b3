"""What a model repository holds: its models, their tensors and how the ensemble joins them.

    preprocess -> vision_encoder -> decoder -> postprocess        ensemble `qwen3_vl_moe`
                                                                  `qwen3_vl_moe_whole`: the same, one response

A language server has the same models, but its preprocess passes images and videos on as they came, and its
vision_encoder fetches their visual rows from encode servers, whose only model is `encode`.

Triton lets a step take inputs from one decoupled step only, and from no earlier step beside it. vision_encoder and
decoder are decoupled, so what the decoder needs from preprocess goes through vision_encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from export.trtllm.plan import CACHE_PERCENT
from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError
from qwen3vl.limits import Limits
from triton_repo.config_pbtxt import Ensemble, PythonModel, Step, Tensor
from triton_repo.device_rows import DEVICE, GPU_INPUTS, HOST, PLACE, PLACES
from triton_repo.handoff.transports import AUTO, CHOICES
from triton_repo.patch_rows import row_bytes
from triton_repo.roles import Role

ENSEMBLE = "qwen3_vl_moe"
WHOLE = "qwen3_vl_moe_whole"
ENCODE = "encode"
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
# Images and videos as they came, each with a description: see `split.media`.
MEDIA = (
    Tensor("media", "STRING", (-1,)),
    Tensor("media_info", "STRING", (-1,)),
)
# Between a language and an encode server: see `handoff`.
HANDOFF = (
    Tensor("message", "UINT8", (-1,)),
    Tensor("payload", "UINT8", (-1,)),
)


@dataclass(frozen=True)
class Options:
    """How a deployment is run; none of it changes an answer.

    Attributes:
        slots: requests that the decoder serves at the same time.
        threads: compute threads of each engine; 0 is one for each core.
        stall_ms: time between two tokens of a running answer while prompts are processed, in milliseconds, as far as
            the machine allows it (see docs/architecture.md); TensorRT-LLM decides for itself.
        cache_percent: share of a GPU's free memory that TensorRT-LLM gets for keys and values; the vision encoder is
            loaded later, into the rest.
        preprocess_instances: processes that prepare prompts and, on a whole server, images.
        whole_instances: whole answers over `infer` at the same time.
        row_cache_mib: visual rows that a language server keeps for images that come again, in MiB; 0 for none.
        encode_seconds: how long an image may take to become visual rows, waiting for an encode server included.
        transport: how visual rows move from encode servers: see docs/handoff.md. "auto" is through shared memory where
            that can be reached, else by gRPC.
        visual_rows: "device" to pass them on to the decoder in the GPU's memory, where it is ONNX Runtime's for one,
            and so is the vision encoder of a whole server; "host" to pass them on in the host's memory.
    """

    slots: int = 8
    threads: int = 0
    stall_ms: int = 50
    preprocess_instances: int = 2
    whole_instances: int = 4
    row_cache_mib: int = 1024
    encode_seconds: int = 30
    transport: str = AUTO
    cache_percent: int = CACHE_PERCENT
    visual_rows: str = DEVICE

    def __post_init__(self) -> None:
        for name, least in (("slots", 1), ("threads", 0), ("stall_ms", 1), ("preprocess_instances", 1),
                            ("whole_instances", 1), ("row_cache_mib", 0), ("encode_seconds", 1)):
            if getattr(self, name) < least:
                raise ArtifactError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if not 1 <= self.cache_percent <= 99:
            raise ArtifactError(f"cache_percent is {self.cache_percent}, expected 1 to 99")
        if self.transport not in CHOICES:
            raise ArtifactError(f"transport is {self.transport!r}, expected one of {', '.join(CHOICES)}")
        if self.visual_rows not in PLACES:
            raise ArtifactError(f"visual_rows is {self.visual_rows!r}, expected one of {', '.join(PLACES)}")


def entry_queue(limits: Limits, slots: int) -> int:
    """How many requests may wait to be prepared: a burst that the decoder has room for is not refused before it."""
    return limits.queue + slots


def models(role: Role, config: ModelConfig, options: Options, limits: Limits,
           parameters: Mapping[str, str], *, on_gpu: bool) -> list[PythonModel | Ensemble]:
    """Every model of a repository for a checkpoint of this configuration.

    Args:
        parameters: what a server of rows is recognised by, for the roles `ENCODE` and `LANGUAGE`.
        on_gpu: whether the decoder can be given rows in the GPU's memory (`device_rows.can_be_on_gpu`).
    """
    threads = {"threads": str(options.threads)}
    place = options.visual_rows if on_gpu else HOST
    decoding = GPU_INPUTS if place == DEVICE else {}
    if role is Role.ENCODE:
        message, payload = HANDOFF
        return [PythonModel(ENCODE, (message, _optional(payload)), HANDOFF, decoupled=True,
                            parameters={**threads, **parameters})]
    if role is Role.LANGUAGE:
        fetching = {"row_cache_mib": str(options.row_cache_mib), "encode_seconds": str(options.encode_seconds),
                    "transport": options.transport, PLACE: place, **parameters}
        return _serving_models(MEDIA, "language_", fetching, decoding, config, options, limits)
    visual = (Tensor("patches", "UINT8", (-1, row_bytes(config.vision))), Tensor("rows_per_patch", "INT32", (-1,)),
              Tensor("grids", "INT32", (-1, 3)))
    return _serving_models(visual, "", {**threads, PLACE: place}, decoding, config, options, limits)


def _serving_models(visual: tuple[Tensor, ...], shells: str, vision_parameters: Mapping[str, str],
                    decoder_parameters: Mapping[str, str], config: ModelConfig, options: Options,
                    limits: Limits) -> list[PythonModel | Ensemble]:
    """The models that answer clients.

    Args:
        visual: what preprocess gives vision_encoder of images and videos.
        shells: beginning of these two models' shells.
    """
    rows = (Tensor("visual_rows", "FP32", (-1, config.text.hidden_size)),)
    queue = entry_queue(limits, options.slots)
    return [
        PythonModel("preprocess", REQUEST, (*PROMPT, *visual), instances=options.preprocess_instances, queue=queue,
                    shell=f"{shells}preprocess"),
        PythonModel("vision_encoder", (*PROMPT, *visual), (*PROMPT, *rows), decoupled=True,
                    parameters=vision_parameters, shell=f"{shells}vision_encoder"),
        PythonModel("decoder", (*PROMPT, *rows), EMISSION, decoupled=True,
                    parameters={"slots": str(options.slots), "threads": str(options.threads),
                                "stall_ms": str(options.stall_ms), "cache_percent": str(options.cache_percent),
                                **decoder_parameters}),
        # One instance: several could overtake each other and mix up the order of the text.
        PythonModel("postprocess", [_optional(tensor) for tensor in EMISSION], ANSWER, decoupled=True),
        Ensemble(ENSEMBLE, REQUEST, ANSWER, _steps(_names(visual))),
        PythonModel(WHOLE, REQUEST, ANSWER, instances=options.whole_instances, queue=queue),
    ]


def _steps(visual: tuple[str, ...]) -> list[Step]:
    prompt = _names(PROMPT)
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
