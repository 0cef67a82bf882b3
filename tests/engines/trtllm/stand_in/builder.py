"""`BuildConfig`, `build` and the engine's files."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.engines.trtllm.stand_in.network import Network, PluginConfig, net_guard
from tests.engines.trtllm.stand_in.qwen import DecoderModelForCausalLM, set_prompt_tuning

VERSION = "1.2.1"
# An engine's file holds a number; what it stands for lives as long as the process.
ENGINES: dict[str, BuiltEngine] = {}


@dataclass
class BuildConfig:
    """The fields that the build sets or this reads, with TensorRT-LLM's defaults."""

    max_input_len: int = 1024
    max_seq_len: int | None = None
    max_batch_size: int = 2048
    max_beam_width: int = 1
    max_num_tokens: int = 8192
    opt_num_tokens: int | None = None
    max_prompt_embedding_table_size: int = 0
    kv_cache_type: str | None = None
    gather_context_logits: bool = False
    max_draft_len: int = 0
    output_timing_cache: str = "model.cache"
    plugin_config: PluginConfig = field(default_factory=PluginConfig)
    use_mrope: bool = False

    def to_dict(self) -> dict:
        plugins = {name: value for name, value in vars(self.plugin_config).items() if not name.startswith("_")}
        return {**vars(self), "plugin_config": plugins}


@dataclass
class BuiltEngine:
    """A network and what it is made of; `inputs` are the arguments of the model's forward."""

    model: DecoderModelForCausalLM
    network: Network
    inputs: dict

    def run(self) -> dict[str, torch.Tensor]:
        """Output values, by name, of the values that the network's inputs have now."""
        self.network.outputs.clear()
        with net_guard(self.network), torch.inference_mode():
            self.model(**self.inputs)
        return dict(self.network.outputs)


class Engine:
    def __init__(self, config: dict, engine: BuiltEngine, managed_weights=None) -> None:
        self.config, self.engine = config, engine

    def save(self, engine_dir: str) -> None:
        folder, rank = Path(engine_dir), self.engine.model.config.mapping.rank
        folder.mkdir(parents=True, exist_ok=True)
        if rank == 0:
            (folder / "config.json").write_text(json.dumps(self.config, indent=4))
        number = str(len(ENGINES))
        ENGINES[number] = self.engine
        (folder / f"rank{rank}.engine").write_text(number)


def load_engine(path: Path) -> BuiltEngine:
    return ENGINES[path.read_text()]


def build(model: DecoderModelForCausalLM, build_config: BuildConfig) -> Engine:
    config = copy.deepcopy(build_config)
    config.plugin_config.dtype = model.config.dtype
    assert config.plugin_config.paged_kv_cache is not False and config.plugin_config.remove_input_padding
    config.kv_cache_type, config.plugin_config.paged_kv_cache = "PAGED", True
    assert config.max_seq_len <= model.config.max_position_embeddings
    if config.max_prompt_embedding_table_size > 0:
        set_prompt_tuning(model)
    network = Network(config.plugin_config)
    with net_guard(network):
        # M-RoPE's size is not among them for this architecture.
        inputs = model.prepare_inputs(
            max_batch_size=config.max_batch_size, max_input_len=config.max_input_len, max_seq_len=config.max_seq_len,
            use_cache=True, max_beam_width=config.max_beam_width, max_num_tokens=config.max_num_tokens,
            opt_num_tokens=config.opt_num_tokens, prompt_embedding_table_size=config.max_prompt_embedding_table_size,
            max_draft_len=config.max_draft_len, speculative_decoding_draft_tokens_external=False,
            gather_context_logits=config.gather_context_logits, lora_target_modules=[])
    engine = BuiltEngine(model, network, inputs)
    _define(engine)
    if model.config.mapping.rank == 0:
        Path(config.output_timing_cache).write_bytes(b"times")
    description = {"version": VERSION, "pretrained_config": model.config.to_dict(), "build_config": config.to_dict()}
    return Engine(description, engine)


def _define(engine: BuiltEngine) -> None:
    """Run the network once, as its definition would walk through it: one request of two tokens, one of them visual."""
    config, network = engine.model.config, engine.network
    samples = {
        "input_ids": torch.tensor([0, config.vocab_size], dtype=torch.int32), "position_ids": torch.arange(2).int(),
        "tasks": torch.zeros(2, dtype=torch.int32), "prompt_vocab_size": torch.tensor([8], dtype=torch.int32),
        "prompt_embedding_table": torch.zeros(8, config.hidden_size),
        "hidden_states_input": torch.zeros(2, config.hidden_size),
        "mrope_rotary_cos_sin": torch.zeros(1, config.max_position_embeddings * config.rotary_embedding_dim),
        "mrope_position_deltas": torch.zeros(1, 1, dtype=torch.int32)}
    samples |= {name: torch.tensor([value], dtype=torch.int32) for name, value in (
        ("sequence_length", 2), ("context_lengths", 2), ("host_context_lengths", 2), ("host_request_types", 0),
        ("last_token_ids", 2))}
    network.requests = ["definition"]
    for name, tensor in network.inputs.items():
        tensor.trt_tensor.value = samples[name]
    engine.run()
    network.caches.clear()
    for tensor in network.inputs.values():
        tensor.trt_tensor.value = None
