"""What torch says of requests: the measure of a decoder's engine."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engines.batching.request import GenerationRequest
from engines.fidelity.cases import Case
from engines.fidelity.rounded_weights import round_weights
from export.precision import quantisation_of, wide_precision
from qwen3vl.sampling import SamplingParams
from qwen3vl.torch_decoder import KeyValueCache
from qwen3vl.torch_model import TorchModel

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LEAST_NOISE = 1e-4
STEPS, ANSWER = 6, 24
# What is fed behind each prompt, step by step.
STEP_TOKENS = np.arange(40, 40 + STEPS, dtype=np.int32)


@dataclass(frozen=True)
class Prompt:
    """A request, its rows, and what torch says of it: logits of its tokens and of `STEPS` given ones behind it.

    Attributes:
        logits: float32 [S + STEPS, V].
        noise: by how much torch in the engine's precision is off, as `relative` says.
    """

    request: GenerationRequest
    logits: np.ndarray
    noise: float


class Reference:
    """The torch modules in float32 and in the engine's precision, both with the weights that a quantised export has."""

    def __init__(self, checkpoint: Path, precision: str, device: str):
        self.device = device
        self.exact = TorchModel.from_checkpoint(checkpoint)
        if (quantisation := quantisation_of(precision)) is not None:
            round_weights(self.exact.checkpoint_parameters(), self.exact.decoder.lm_head, self.exact.config,
                          quantisation)
        self.exact.to(device)
        self.rounded = copy.deepcopy(self.exact).to(DTYPES[wide_precision(precision)])

    @torch.inference_mode()
    def prompt(self, case: Case) -> Prompt:
        inputs = case.inputs
        rows = self.exact.visual_rows(inputs.patches, inputs.grids)
        ids = np.concatenate([inputs.token_ids, STEP_TOKENS])
        behind = np.arange(len(inputs.token_ids), len(ids)) + inputs.rope_delta
        positions = np.concatenate([inputs.position_ids, np.tile(behind, (3, 1))], 1)
        exact, rounded = (self._logits(model, ids, positions, rows) for model in (self.exact, self.rounded))
        request = GenerationRequest(inputs.token_ids, inputs.position_ids, inputs.rope_delta, rows.cpu().numpy(),
                                    SamplingParams(max_tokens=ANSWER))
        return Prompt(request, exact, max(LEAST_NOISE, relative(rounded, exact)))

    @torch.inference_mode()
    def answer_logits(self, prompt: Prompt, answer: list[int]) -> np.ndarray:
        """Float32 logits [len(answer), V] that each token of an answer was chosen from."""
        request, length = prompt.request, len(prompt.request.token_ids)
        ids = np.concatenate([request.token_ids, np.array(answer, np.int32)])
        behind = np.arange(length, len(ids)) + request.rope_delta
        positions = np.concatenate([request.position_ids, np.tile(behind, (3, 1))], 1)
        rows = torch.from_numpy(request.visual_rows).to(self.device)
        return self._logits(self.exact, ids, positions, rows)[length - 1 : -1]

    def _logits(self, model: TorchModel, ids: np.ndarray, positions: np.ndarray, rows: torch.Tensor) -> np.ndarray:
        tokens = torch.from_numpy(ids).long()[None].to(self.device)
        places = torch.from_numpy(positions).long()[:, None].to(self.device)
        dtype = model.decoder.lm_head.weight.dtype
        return model.decoder(tokens, rows.to(dtype), places, KeyValueCache())[0].float().cpu().numpy()


def relative(logits: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))
