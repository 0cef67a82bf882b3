"""How a model is divided among GPUs, numbered as TensorRT-LLM numbers its ranks (tensorrt_llm/mapping.py)."""

from __future__ import annotations

from dataclasses import dataclass

from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError


@dataclass(frozen=True)
class Parallelism:
    """Sizes of the groups.

    Attributes:
        tp: GPUs that share each layer (tensor parallelism).
        pp: pipeline stages, each with its own layers.
        ep: groups of experts among the `tp` GPUs of a stage; `tp / ep` GPUs share each expert.
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "ep"):
            if getattr(self, name) < 1:
                raise ArtifactError(f"--{name} is {getattr(self, name)}, expected a number above 0")
        if self.tp % self.ep:
            raise ArtifactError(f"--ep is {self.ep}, expected a divisor of --tp = {self.tp}: the GPUs of a stage share "
                                "its experts")

    @property
    def world_size(self) -> int:
        return self.tp * self.pp

    @property
    def moe_tp(self) -> int:
        """GPUs that share one expert."""
        return self.tp // self.ep

    def check(self, config: ModelConfig) -> None:
        """Refuse what the model's sizes, TensorRT-LLM's layers or DeepStack do not allow.

        Raises:
            ArtifactError: the message names the option, the size it must fit and what to choose.
        """
        text, levels = config.text, config.vision.deepstack_levels
        _divides("tp", self.tp, "num_attention_heads", text.num_attention_heads)
        if text.num_key_value_heads % self.tp and self.tp % text.num_key_value_heads:
            raise ArtifactError(f"--tp is {self.tp}, expected a divisor or a multiple of num_key_value_heads = "
                                f"{text.num_key_value_heads}")
        # layers/attention.py reads a rank's rows as [heads, 3, head_size] before normalising queries and keys where it
        # has as many query as key heads: another order than the one its attention kernel takes.
        if text.num_attention_heads // self.tp == self.local_kv_heads(config):
            raise ArtifactError(f"--tp {self.tp} leaves each GPU as many query heads as key-value heads "
                                f"({self.local_kv_heads(config)}), which TensorRT-LLM 1.2.1 normalises in the wrong "
                                "order: this needs more query than key-value heads on each GPU; choose a smaller --tp")
        _divides("ep", self.ep, "num_experts", text.num_experts)
        _divides("tp / --ep", self.moe_tp, "moe_intermediate_size", text.moe_intermediate_size)
        if self.pp > text.num_hidden_layers:
            raise ArtifactError(f"--pp is {self.pp}, expected at most num_hidden_layers = {text.num_hidden_layers}")
        if len(self.layers(0, text.num_hidden_layers)) < levels:
            raise ArtifactError(f"--pp {self.pp} leaves {len(self.layers(0, text.num_hidden_layers))} layers on the "
                                f"first pipeline stage, but DeepStack adds visual rows after layers 0 to {levels - 1} "
                                "and only the first stage knows the token ids: choose a smaller --pp")

    def local_kv_heads(self, config: ModelConfig) -> int:
        """Key-value heads on one GPU: at least one, repeated on neighbours where there are fewer heads than GPUs."""
        return max(1, config.text.num_key_value_heads // self.tp)

    def layers(self, stage: int, count: int) -> range:
        """The layers of a stage; where they do not divide evenly, the first stages have one more."""
        size, longer = divmod(count, self.pp)
        start = stage * size + min(stage, longer)
        return range(start, start + size + (stage < longer))

    def rank(self, number: int) -> Rank:
        """The place of GPU `number`: stages are consecutive, and within a stage expert groups alternate."""
        stage, tp_rank = divmod(number, self.tp)
        moe_tp_rank, ep_rank = divmod(tp_rank, self.ep)
        return Rank(self, number, stage, tp_rank, moe_tp_rank, ep_rank)


@dataclass(frozen=True)
class Rank:
    """One GPU's place in each group."""

    parallelism: Parallelism
    number: int
    stage: int
    tp_rank: int
    moe_tp_rank: int
    ep_rank: int

    @property
    def is_first_stage(self) -> bool:
        return self.stage == 0

    @property
    def is_last_stage(self) -> bool:
        return self.stage == self.parallelism.pp - 1


def _divides(option: str, value: int, field: str, size: int) -> None:
    if size % value:
        raise ArtifactError(f"--{option} is {value}, expected a divisor of {field} = {size}")
