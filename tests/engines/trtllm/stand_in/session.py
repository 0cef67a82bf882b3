"""Running built engines step by step, with any mixture of requests and any chunks of their prompts."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.engines.trtllm.stand_in.builder import BuiltEngine, load_engine
from tests.engines.trtllm.stand_in.communicator import Communicator
from tests.engines.trtllm.stand_in.modules import CONTEXT, GENERATION
from tests.engines.trtllm.stand_in.tensorrt import DataType
from tests.engines.trtllm.stand_in.tensors import FLOATS


@dataclass(eq=False)
class Request:
    """A request as the executor takes it.

    Attributes:
        token_ids: prompt and, as they are chosen, the answer's tokens.
        table: [rows, H]: its visual rows.
        cos_sin: [max_length * dim]: M-RoPE's table.
        delta: what the answer's positions differ by from the tokens' numbers.
    """

    token_ids: list[int]
    table: torch.Tensor
    cos_sin: torch.Tensor
    delta: int
    prompt_length: int = field(init=False)
    done: int = 0

    def __post_init__(self) -> None:
        self.prompt_length = len(self.token_ids)


class Session:
    def __init__(self, folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        self.build_config, self.model_config = values["build_config"], values["pretrained_config"]
        world_size = self.model_config["mapping"]["world_size"]
        self.engines = [load_engine(folder / f"rank{rank}.engine") for rank in range(world_size)]
        communicator = Communicator(world_size)
        for engine in self.engines:
            engine.network.communicator = communicator if world_size > 1 else None
            engine.network.caches.clear()
        rows, batch = self.build_config["max_prompt_embedding_table_size"], self.build_config["max_batch_size"]
        self.task_vocab_size = rows // batch

    def step(self, work: Sequence[tuple[Request, int]]) -> torch.Tensor:
        """Compute so many next tokens of each request.

        Returns:
            [requests, vocabulary]: logits of each one's last token, those with prompts first; of every token,
            [tokens, vocabulary], with an engine that gives context logits.
        """
        work = sorted(work, key=lambda item: item[0].done >= item[0].prompt_length)  # those with prompts first
        total = sum(count for _, count in work)
        assert len(work) <= self.build_config["max_batch_size"] and total <= self.build_config["max_num_tokens"]
        feed = self._feed(work)
        outputs = self._run(feed, [request for request, _ in work])
        for request, count in work:
            request.done += count
        logits = outputs[-1]["logits"]
        assert all(torch.equal(logits, rank["logits"]) for rank in outputs if "logits" in rank)
        return logits

    def _feed(self, work: Sequence[tuple[Request, int]]) -> dict[str, torch.Tensor]:
        table = torch.zeros(self.build_config["max_prompt_embedding_table_size"], self.model_config["hidden_size"])
        ids, tasks, kinds, lengths, past = [], [], [], [], []
        for task, (request, count) in enumerate(work):
            is_prompt = request.done < request.prompt_length
            assert request.done + count <= len(request.token_ids) <= self.build_config["max_seq_len"]
            assert count == 1 or request.done + count <= request.prompt_length, "a step is prompt or answer"
            assert len(request.table) <= self.task_vocab_size, "more visual rows than the engine holds"
            table[task * self.task_vocab_size :][: len(request.table)] = request.table
            ids += request.token_ids[request.done : request.done + count]
            tasks += [task] * count
            kinds.append(CONTEXT if is_prompt else GENERATION)
            lengths.append(count if is_prompt else request.prompt_length)
            past.append(request.done)
        counts = torch.tensor([count for _, count in work])
        integers = {"input_ids": ids, "position_ids": range(len(ids)), "tasks": tasks, "host_request_types": kinds,
                    "context_lengths": lengths, "host_context_lengths": lengths,
                    "sequence_length": (torch.tensor(past) + counts).tolist(),
                    "last_token_ids": counts.cumsum(0).tolist(), "prompt_vocab_size": [self.task_vocab_size]}
        feed = {name: torch.tensor(list(values), dtype=torch.int32) for name, values in integers.items()}
        feed["prompt_embedding_table"] = table
        if self.build_config["use_mrope"]:
            feed["mrope_rotary_cos_sin"] = torch.stack([request.cos_sin for request, _ in work])
            feed["mrope_position_deltas"] = torch.tensor([[request.delta] for request, _ in work], dtype=torch.int32)
        return feed

    def _run(self, feed: dict[str, torch.Tensor], requests: list[Request]) -> list[dict[str, torch.Tensor]]:
        outputs: list[dict] = [{} for _ in self.engines]
        failures: list[BaseException] = []

        def run(rank: int) -> None:
            try:
                engine = self.engines[rank]
                engine.network.requests = requests
                _give(engine, feed)
                outputs[rank] = engine.run()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(1, len(self.engines))]
        for thread in threads:
            thread.start()
        run(0)
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return outputs


def _give(engine: BuiltEngine, feed: dict[str, torch.Tensor]) -> None:
    """Set the network's inputs; the runtime knows no others, and types and shapes are those of the inputs."""
    for name, tensor in engine.network.inputs.items():
        if name == "hidden_states_input":  # from the stage before
            tensor.trt_tensor.value = torch.zeros(0)
            continue
        if name not in feed:
            raise RuntimeError(f"Input tensor '{name}' not found")
        value, declared = feed[name], tensor.trt_tensor
        assert (value.dtype is torch.int32) == (declared.dtype is DataType.INT32), name
        assert value.dtype is torch.int32 or declared.dtype in FLOATS, name
        assert len(declared.shape) == value.ndim, name
        assert all(size in (-1, given) for size, given in zip(declared.shape, value.shape, strict=True)), \
            f"{name} has shape {tuple(value.shape)}, declared {declared.shape}"
        declared.value = value
