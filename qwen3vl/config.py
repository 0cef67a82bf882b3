"""The model's configuration, read from a checkpoint's `config.json` and validated once, here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from qwen3vl.errors import CheckpointError
from qwen3vl.json_files import read_json

ARCHITECTURE = "Qwen3VLMoeForConditionalGeneration"


@dataclass(frozen=True)
class VisionConfig:
    """The vision encoder. `deepstack_visual_indexes[k]` is the block whose output feeds DeepStack level k + 1."""

    depth: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    out_hidden_size: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    num_position_embeddings: int
    deepstack_visual_indexes: tuple[int, ...]
    in_channels: int = 3
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        where = "vision_config"
        _positive(self, where, "depth", "hidden_size", "num_heads", "intermediate_size", "out_hidden_size",
                  "patch_size", "temporal_patch_size", "spatial_merge_size", "num_position_embeddings")
        _require(self.in_channels == 3, f"{where}.in_channels", self.in_channels, "3 (RGB)")
        _require(self.hidden_size % self.num_heads == 0, f"{where}.num_heads", self.num_heads,
                 f"a divisor of hidden_size = {self.hidden_size}")
        _require(self.head_dim % 4 == 0, f"{where}.hidden_size / num_heads", self.head_dim,
                 "a multiple of 4 (rotary halves for rows and columns)")
        _require(self.grid_side**2 == self.num_position_embeddings, f"{where}.num_position_embeddings",
                 self.num_position_embeddings, "a square number")
        indexes = self.deepstack_visual_indexes
        _require(list(indexes) == sorted(set(indexes)) and all(0 <= i < self.depth for i in indexes),
                 f"{where}.deepstack_visual_indexes", list(indexes),
                 f"increasing block numbers below depth = {self.depth}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def patch_dim(self) -> int:
        """Values in one patch, laid out [channel, time, row, column]."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merge_unit(self) -> int:
        """Patches that become one visual token."""
        return self.spatial_merge_size**2

    @property
    def merged_size(self) -> int:
        return self.hidden_size * self.merge_unit

    @property
    def grid_side(self) -> int:
        """Side of the square grid of learned position embeddings."""
        return round(self.num_position_embeddings**0.5)

    @property
    def deepstack_levels(self) -> int:
        return len(self.deepstack_visual_indexes)


@dataclass(frozen=True)
class TextConfig:
    """The MoE decoder."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    moe_intermediate_size: int
    num_experts: int
    num_experts_per_tok: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    attention_bias: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        where = "text_config"
        _positive(self, where, "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                  "head_dim", "vocab_size", "max_position_embeddings", "decoder_sparse_step")
        _require(self.num_attention_heads % self.num_key_value_heads == 0, f"{where}.num_key_value_heads",
                 self.num_key_value_heads, f"a divisor of num_attention_heads = {self.num_attention_heads}")
        _require(self.head_dim % 2 == 0, f"{where}.head_dim", self.head_dim, "an even number")
        _require(len(self.mrope_section) == 3 and sum(self.mrope_section) == self.head_dim // 2,
                 f"{where}.rope_parameters.mrope_section", list(self.mrope_section),
                 f"three numbers that add up to head_dim / 2 = {self.head_dim // 2}")
        # Interleaved M-RoPE overwrites frequencies 1, 4, 7, ... and 2, 5, 8, ...: they must exist.
        _require(all(3 * n <= self.head_dim // 2 + 2 for n in self.mrope_section[1:]),
                 f"{where}.rope_parameters.mrope_section", list(self.mrope_section),
                 "row and column sections of at most a third of head_dim / 2 (the interleaved layout)")
        if any(self.is_sparse(i) for i in range(self.num_hidden_layers)):
            _positive(self, where, "num_experts", "moe_intermediate_size", "num_experts_per_tok")
            _require(self.num_experts_per_tok <= self.num_experts, f"{where}.num_experts_per_tok",
                     self.num_experts_per_tok, f"at most num_experts = {self.num_experts}")
        if not all(self.is_sparse(i) for i in range(self.num_hidden_layers)):
            _positive(self, where, "intermediate_size")

    def is_sparse(self, layer: int) -> bool:
        """Whether this layer's MLP is a mixture of experts."""
        return (layer not in self.mlp_only_layers and self.num_experts > 0
                and (layer + 1) % self.decoder_sparse_step == 0)


@dataclass(frozen=True)
class ModelConfig:
    """Everything the exporters, engines and the preprocessing need to know about one checkpoint."""

    text: TextConfig
    vision: VisionConfig
    image_token_id: int
    video_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int
    tie_word_embeddings: bool

    def __post_init__(self) -> None:
        _require(self.vision.out_hidden_size == self.text.hidden_size, "vision_config.out_hidden_size",
                 self.vision.out_hidden_size, f"text_config.hidden_size = {self.text.hidden_size}")
        _require(self.vision.deepstack_levels <= self.text.num_hidden_layers, "vision_config.deepstack_visual_indexes",
                 list(self.vision.deepstack_visual_indexes),
                 f"at most num_hidden_layers = {self.text.num_hidden_layers} entries")
        for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
            _require(0 <= getattr(self, name) < self.text.vocab_size, name, getattr(self, name),
                     f"a token id below vocab_size = {self.text.vocab_size}")

    @property
    def rows_per_token(self) -> int:
        """Visual rows of one visual token: the embedding and one for each DeepStack level."""
        return 1 + self.vision.deepstack_levels

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> ModelConfig:
        """Rebuild a configuration written by `to_dict`."""
        text = {**values["text"], "mrope_section": tuple(values["text"]["mrope_section"]),
                "mlp_only_layers": tuple(values["text"]["mlp_only_layers"])}
        vision = {**values["vision"], "deepstack_visual_indexes": tuple(values["vision"]["deepstack_visual_indexes"])}
        return cls(**{**values, "text": TextConfig(**text), "vision": VisionConfig(**vision)})

    @classmethod
    def from_checkpoint(cls, checkpoint: str | Path) -> ModelConfig:
        """Read `config.json` of a Hugging Face checkpoint folder; both the 4.x and the 5.x layout are understood.

        Raises:
            CheckpointError: the file is missing or not JSON, the architecture is another one, or a field is
                missing or inconsistent. The message names file and field.
        """
        path = Path(checkpoint) / "config.json"
        raw = read_json(path)
        try:
            return _parse(raw)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None


def _parse(raw: dict) -> ModelConfig:
    architectures = raw.get("architectures") or []
    _require(ARCHITECTURE in architectures, "architectures", architectures, f"['{ARCHITECTURE}']")
    text, vision = _section(raw, "text_config"), _section(raw, "vision_config")
    # transformers 5 keeps RoPE settings in `rope_parameters`, transformers 4 in `rope_theta` and `rope_scaling`.
    rope = {"rope_theta": text.get("rope_theta"), **_optional_section(text, "text_config", "rope_scaling"),
            **_optional_section(text, "text_config", "rope_parameters")}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    _require(rope_type in ("default", "mrope"), "text_config.rope_parameters.rope_type", rope_type,
             "'default' (scaled RoPE variants are not supported)")
    _require(text.get("hidden_act", "silu") == "silu", "text_config.hidden_act", text.get("hidden_act"), "'silu'")
    activation = vision.get("hidden_act", "gelu_pytorch_tanh")
    _require(activation == "gelu_pytorch_tanh", "vision_config.hidden_act", activation, "'gelu_pytorch_tanh'")
    return ModelConfig(
        text=_text(text, rope),
        vision=VisionConfig(
            **{name: _integer(vision, "vision_config", name) for name in (
                "depth", "hidden_size", "num_heads", "intermediate_size", "out_hidden_size", "patch_size",
                "temporal_patch_size", "spatial_merge_size", "num_position_embeddings")},
            in_channels=_integer(vision, "vision_config", "in_channels", 3),
            deepstack_visual_indexes=_integers(vision, "vision_config", "deepstack_visual_indexes", ()),
            rope_theta=_real(_optional_section(vision, "vision_config", "rope_parameters"),
                             "vision_config.rope_parameters", "rope_theta", 10000.0),
        ),
        **{name: _integer(raw, None, name) for name in ("image_token_id", "video_token_id", "vision_start_token_id",
                                                        "vision_end_token_id")},
        # transformers 5 may show another value on the text config: the top level decides.
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
    )


def _text(text: dict, rope: dict) -> TextConfig:
    where = "text_config"
    sizes = {name: _integer(text, where, name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads",
                                                            "vocab_size", "max_position_embeddings")}
    heads = sizes["num_attention_heads"]
    return TextConfig(
        **sizes,
        num_key_value_heads=_integer(text, where, "num_key_value_heads", heads),
        head_dim=_integer(text, where, "head_dim", sizes["hidden_size"] // max(heads, 1)),
        intermediate_size=_integer(text, where, "intermediate_size", 0),
        moe_intermediate_size=_integer(text, where, "moe_intermediate_size", 0),
        # transformers 5 writes `num_local_experts`.
        num_experts=_integer(text, where, "num_experts", _integer(text, where, "num_local_experts", 0)),
        num_experts_per_tok=_integer(text, where, "num_experts_per_tok", 0),
        rms_norm_eps=_real(text, where, "rms_norm_eps", 1e-6),
        rope_theta=_real(rope, f"{where}.rope_parameters", "rope_theta"),
        mrope_section=_integers(rope, f"{where}.rope_parameters", "mrope_section", (24, 20, 20)),
        attention_bias=bool(text.get("attention_bias", False)),
        decoder_sparse_step=_integer(text, where, "decoder_sparse_step", 1),
        mlp_only_layers=_integers(text, where, "mlp_only_layers", ()),
    )


def _section(raw: dict, name: str) -> dict:
    _require(isinstance(raw.get(name), dict), name, raw.get(name), "an object")
    return raw[name]


def _optional_section(section: dict, where: str, name: str) -> dict:
    value = section.get(name)
    _require(value is None or isinstance(value, dict), f"{where}.{name}", value, "an object")
    return value or {}


def _integer(section: dict, where: str | None, name: str, default: int | None = None) -> int:
    value = default if section.get(name) is None else section[name]
    _require(isinstance(value, int) and not isinstance(value, bool), f"{where}.{name}" if where else name, value,
             "a whole number")
    return value


def _integers(section: dict, where: str, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    value = default if section.get(name) is None else section[name]
    _require(isinstance(value, (list, tuple)) and all(isinstance(item, int) for item in value), f"{where}.{name}",
             value, "a list of whole numbers")
    return tuple(value)


def _real(section: dict, where: str, name: str, default: float | None = None) -> float:
    value = default if section.get(name) is None else section[name]
    _require(isinstance(value, (int, float)) and not isinstance(value, bool), f"{where}.{name}", value, "a number")
    return float(value)


def _positive(config: object, where: str, *names: str) -> None:
    for name in names:
        _require(getattr(config, name) > 0, f"{where}.{name}", getattr(config, name), "a number above 0")


def _require(condition: bool, field: str, value: object, expected: str) -> None:
    if not condition:
        raise CheckpointError(f"{field} is {value!r}, expected {expected}")
