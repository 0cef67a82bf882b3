"""The reference: `transformers`' Qwen3-VL-MoE in float32 on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
import transformers

from engines.fidelity.cases import Case
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError
from qwen3vl.images import ImageSettings, normalise


class Reference:
    """The checkpoint as `transformers` runs it. It gets token ids and pixels only; positions are its own.

    Raises:
        ArtifactError: the checkpoint does not fit into the free memory in float32.
    """

    def __init__(self, checkpoint: Path):
        self.config = ModelConfig.from_checkpoint(checkpoint)
        self._images = ImageSettings.from_checkpoint(checkpoint)
        _require_memory(checkpoint)
        transformers.utils.logging.disable_progress_bar()
        self.model = transformers.Qwen3VLMoeForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
        self.model.eval()

    @torch.no_grad()
    def visual_rows(self, case: Case) -> np.ndarray:
        """float32 [(1 + D) * N, hidden], the rows of one token adjacent."""
        if not len(case.inputs.grids):
            return np.empty((0, self.config.text.hidden_size), np.float32)
        encoded = self.model.model.visual(self._pixels(case.inputs.patches), torch.tensor(case.inputs.grids).long())
        rows = torch.stack([encoded.pooler_output, *encoded.deepstack_features], dim=1)
        return rows.flatten(0, 1).numpy()

    @torch.no_grad()
    def logits(self, case: Case) -> np.ndarray:
        """float32 [S, vocab_size] of the prompt."""
        return self.model(**self.inputs(case)).logits[0].numpy()

    @torch.no_grad()
    def greedy(self, case: Case, tokens: int) -> list[int]:
        """The greedy continuation, the end-of-text token included if it comes."""
        inputs = self.inputs(case)
        output = self.model.generate(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]),
                                     max_new_tokens=tokens, do_sample=False)
        return output[0, inputs["input_ids"].shape[1] :].tolist()

    def inputs(self, case: Case) -> dict[str, torch.Tensor]:
        """What `forward` and `generate` take for the case, on token ids of the original kind."""
        kinds = np.repeat([1 if kind == "image" else 2 for kind in case.kinds],
                          np.prod(case.inputs.grids, axis=1) // self.config.vision.merge_unit)
        ids = case.inputs.token_ids.astype(np.int64)
        types = np.zeros_like(ids)
        types[ids >= self.config.text.vocab_size] = kinds
        ids = np.choose(types, [ids, self.config.image_token_id, self.config.video_token_id])
        inputs = {"input_ids": torch.tensor(ids)[None], "mm_token_type_ids": torch.tensor(types)[None].int()}
        ends = np.cumsum(np.prod(case.inputs.grids, axis=1))
        parts = np.split(case.inputs.patches, ends[:-1]) if len(ends) else []
        for kind, pixels, grid in (("image", "pixel_values", "image_grid_thw"),
                                   ("video", "pixel_values_videos", "video_grid_thw")):
            chosen = [i for i, name in enumerate(case.kinds) if name == kind]
            if chosen:
                inputs[pixels] = self._pixels(np.concatenate([parts[i] for i in chosen]))
                inputs[grid] = torch.tensor(case.inputs.grids[chosen]).long()
        return inputs

    def _pixels(self, patches: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(normalise(patches, self._images))


def _require_memory(checkpoint: Path) -> None:
    with Checkpoint.open(checkpoint) as tensors:
        needed = 4 * sum(int(np.prod(tensors.shape(name))) for name in tensors.names())
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > free:
        raise ArtifactError(f"the reference needs {needed / 1e9:.1f} GB of memory for {checkpoint} in float32, but "
                            f"{free / 1e9:.1f} GB are free: check on a larger machine")
