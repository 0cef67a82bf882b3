"""Configuration, model base classes and the Qwen decoder."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file

from tests.engines.trtllm.stand_in.modules import (
    MOE,
    Attention,
    ColumnLinear,
    Embedding,
    Module,
    ModuleList,
    RmsNorm,
    dtype_of,
)
from tests.engines.trtllm.stand_in.network import default_net
from tests.engines.trtllm.stand_in.tensorrt import DataType
from tests.engines.trtllm.stand_in.tensors import Tensor, made

ARCHITECTURES = ("Qwen3MoeForCausalLM",)


class Mapping:
    """Which rank is where: ranks of a stage are consecutive, and expert groups alternate among them."""

    def __init__(self, world_size: int = 1, rank: int = 0, gpus_per_node: int = 8, *, tp_size: int = 1,
                 pp_size: int = 1, moe_tp_size: int = -1, moe_ep_size: int = -1) -> None:
        assert world_size == tp_size * pp_size
        self.world_size, self.rank, self.tp_size, self.pp_size = world_size, rank, tp_size, pp_size
        self.moe_tp_size, self.moe_ep_size = moe_tp_size, moe_ep_size
        assert moe_tp_size * moe_ep_size == tp_size

    @property
    def pp_rank(self) -> int:
        return self.rank // self.tp_size

    @property
    def tp_group(self) -> list[int]:
        return list(range(self.pp_rank * self.tp_size, (self.pp_rank + 1) * self.tp_size))

    @property
    def moe_ep_rank(self) -> int:
        return self.rank % self.tp_size % self.moe_ep_size

    def is_first_pp_rank(self) -> bool:
        return self.pp_rank == 0

    def is_last_pp_rank(self) -> bool:
        return self.pp_rank == self.pp_size - 1

    def pp_layers(self, layers: int) -> list[int]:
        return torch.tensor_split(torch.arange(layers), self.pp_size)[self.pp_rank].tolist()


class PretrainedConfig:
    """A checkpoint's config.json; what it does not know becomes an attribute too."""

    def __init__(self, *, architecture: str, dtype: str, mapping: dict, **values) -> None:
        self.architecture, self.dtype, self.mapping = architecture, dtype, Mapping(**mapping)
        for name, value in values.items():
            setattr(self, name, value)

    @classmethod
    def from_checkpoint(cls, ckpt_dir: str) -> PretrainedConfig:
        values = json.loads((Path(ckpt_dir) / "config.json").read_text())
        if values["architecture"] not in ARCHITECTURES:
            raise KeyError(values["architecture"])  # MODEL_MAP
        return cls(**values)

    def set_rank(self, rank: int) -> None:
        self.mapping.rank = rank

    def to_dict(self) -> dict:
        mapping = {name: value for name, value in vars(self.mapping).items() if name != "rank"}
        return {**copy.deepcopy(vars(self)), "mapping": mapping}


class DecoderLayerList(ModuleList):
    def __init__(self, cls, config) -> None:
        super().__init__([cls(config, index) for index in config.mapping.pp_layers(config.num_hidden_layers)])

    def forward(self, hidden_states, use_cache, attention_params, mrope_params):
        """Layers are called with the tensors by position, everything else by name."""
        for layer in self:
            kwargs = {} if mrope_params is None else {"mrope_params": mrope_params}
            hidden_states, _ = layer(hidden_states, use_cache=use_cache, attention_mask=None, kv_cache_params=None,
                                     attention_params=attention_params, **kwargs)
        return hidden_states, []


class QWenDecoderLayer(Module):
    def __init__(self, config, layer_idx: int) -> None:
        self.layer_idx, self.config = layer_idx, config
        self.input_layernorm = RmsNorm(config.hidden_size, config.norm_epsilon, config.dtype)
        first = config.mapping.pp_layers(config.num_hidden_layers)[0]
        self.attention = Attention(config, layer_idx - first)  # no epsilon is handed on
        self.mlp = MOE(config)
        self.post_layernorm = RmsNorm(config.hidden_size, config.norm_epsilon, config.dtype)

    def forward(self, hidden_states, attention_mask=None, use_cache=False, spec_decoding_params=None,
                kv_cache_params=None, attention_params=None, lora_layer_params=None, mrope_params=None):
        attended, cache = self.attention(self.input_layernorm(hidden_states), attention_params, mrope_params)
        hidden_states = hidden_states + attended
        hidden_states = hidden_states + self.mlp(self.post_layernorm(hidden_states))
        return (hidden_states, cache) if use_cache else hidden_states


class QWenModel(Module):
    def __init__(self, config) -> None:
        self.mapping = config.mapping
        if self.mapping.is_first_pp_rank():
            self.vocab_embedding = Embedding(config.vocab_size, config.hidden_size, config.dtype)
        self.layers = DecoderLayerList(QWenDecoderLayer, config)
        if self.mapping.is_last_pp_rank():
            self.ln_f = RmsNorm(config.hidden_size, config.norm_epsilon, config.dtype)

    def forward(self, input_ids, position_ids=None, use_cache=False, spec_decoding_params=None, attention_mask=None,
                kv_cache_params=None, attention_params=None, mrope_params=None, hidden_states=None,
                prompt_embedding_table=None, prompt_tasks=None, prompt_vocab_size=None, lora_params=None):
        mapping, communicator = self.mapping, default_net().communicator
        if mapping.is_first_pp_rank():
            table = () if prompt_embedding_table is None else (prompt_embedding_table, prompt_tasks, prompt_vocab_size)
            hidden_states = self.vocab_embedding(input_ids, *table)
        elif communicator is not None:
            hidden_states = made(communicator.receive(mapping.rank), hidden_states.dtype)
        hidden_states, caches = self.layers.forward(hidden_states, use_cache, attention_params, mrope_params)
        if mapping.is_last_pp_rank():
            hidden_states = self.ln_f(hidden_states)
        elif communicator is not None:
            communicator.send(mapping.rank + mapping.tp_size, hidden_states.value)
        return hidden_states, caches


class PretrainedModel(Module):
    def __init__(self, config: PretrainedConfig) -> None:
        self.config = config

    @classmethod
    def from_checkpoint(cls, ckpt_dir: str, rank: int | None = None, config: PretrainedConfig | None = None, *,
                        preprocess_weights_hook=None) -> PretrainedModel:
        config = config or PretrainedConfig.from_checkpoint(ckpt_dir)
        if rank is not None:
            config.set_rank(rank)
        weights = load_file(Path(ckpt_dir) / f"rank{config.mapping.rank}.safetensors")
        model = cls(config)
        parameters = dict(model.named_parameters())
        if missing := set(parameters) - set(weights):
            raise RuntimeError(f"Required but not provided tensors:{missing}")
        for name, parameter in parameters.items():
            parameter.value = weights[name]
        return model

    def prepare_inputs(self, max_batch_size, max_input_len, max_seq_len, max_num_tokens, use_cache, max_beam_width=1,
                       opt_num_tokens=None, prompt_embedding_table_size=0, position_encoding_2d=False, max_draft_len=0,
                       speculative_decoding_draft_tokens_external=False,
                       spec_decoding_is_generation_length_variable=False, gather_context_logits=False,
                       lora_target_modules=None, opt_batch_size=0, num_hidden_layers=None,
                       mrope_rotary_cos_sin_size=None) -> dict:
        config, dtype = self.config, dtype_of(self.config.dtype)
        first, last = config.mapping.is_first_pp_rank(), config.mapping.is_last_pp_rank()

        def of_requests(name: str) -> Tensor:
            return Tensor(name, DataType.INT32, [-1])

        inputs = {
            "input_ids": Tensor("input_ids", DataType.INT32, [-1]) if first else None,
            "position_ids": Tensor("position_ids", DataType.INT32, [-1]) if first else None,
            "use_cache": use_cache, "attention_mask": None, "kv_cache_params": None,
            "last_token_ids": of_requests("last_token_ids") if last and not gather_context_logits else None,
            "attention_params": SimpleNamespace(**{name: of_requests(name) for name in (
                "sequence_length", "context_lengths", "host_context_lengths", "host_request_types")})}
        if not first:
            inputs["hidden_states"] = Tensor("hidden_states_input", dtype, [-1, config.hidden_size])
        if prompt_embedding_table_size > 0:
            inputs["prompt_embedding_table"] = Tensor("prompt_embedding_table", dtype, [-1, config.hidden_size])
            inputs["prompt_tasks"] = Tensor("tasks", DataType.INT32, [-1])
            inputs["prompt_vocab_size"] = Tensor("prompt_vocab_size", DataType.INT32, [1])
        if mrope_rotary_cos_sin_size is not None:
            inputs["mrope_params"] = SimpleNamespace(
                mrope_rotary_cos_sin=Tensor("mrope_rotary_cos_sin", DataType.FLOAT, [-1, mrope_rotary_cos_sin_size]),
                mrope_position_deltas=Tensor("mrope_position_deltas", DataType.INT32, [-1, 1]))
        return inputs


class DecoderModelForCausalLM(PretrainedModel):
    def __init__(self, config, transformer, lm_head) -> None:
        super().__init__(config)
        self.transformer, self.lm_head = transformer, lm_head

    def forward(self, input_ids, position_ids=None, use_cache=False, last_token_ids=None, attention_mask=None,
                kv_cache_params=None, attention_params=None, mrope_params=None, hidden_states=None,
                prompt_embedding_table=None, prompt_tasks=None, prompt_vocab_size=None, lora_params=None,
                spec_decoding_params=None):
        """The transformer gets everything by name, and nothing that is not there but the first few."""
        optional = {"hidden_states": hidden_states, "prompt_embedding_table": prompt_embedding_table,
                    "prompt_tasks": prompt_tasks, "prompt_vocab_size": prompt_vocab_size, "mrope_params": mrope_params}
        hidden_states, _ = self.transformer.forward(
            input_ids=input_ids, position_ids=position_ids, use_cache=use_cache, attention_mask=attention_mask,
            kv_cache_params=kv_cache_params, attention_params=attention_params,
            **{name: value for name, value in optional.items() if value is not None})
        if not self.config.mapping.is_last_pp_rank():
            hidden_states.mark_output("hidden_states_output", self.config.dtype)
            return
        if last_token_ids is not None:
            hidden_states = made(hidden_states.value[last_token_ids.value.long() - 1], hidden_states.dtype)
        self.lm_head(hidden_states).mark_output("logits", self.config.logits_dtype)


class QWenForCausalLM(DecoderModelForCausalLM):
    def __init__(self, config) -> None:
        mapping = config.mapping
        padded = -(-config.vocab_size // mapping.tp_size) * mapping.tp_size
        head = ColumnLinear(config.hidden_size, padded, config.dtype, mapping, gather_output=True) \
            if mapping.is_last_pp_rank() else None
        super().__init__(config, QWenModel(config), head)


def set_prompt_tuning(model: QWenForCausalLM) -> None:
    """`build` does this where the prompt table has a size."""
    from tests.engines.trtllm.stand_in.modules import PromptTuningEmbedding

    embedding = getattr(model.transformer, "vocab_embedding", None)
    if embedding is not None:
        tuned = PromptTuningEmbedding(embedding.num_embeddings, embedding.weight.shape[1], embedding.dtype)
        tuned.weight = embedding.weight
        model.transformer.vocab_embedding = tuned


