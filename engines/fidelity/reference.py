"""The reference: `transformers`' Qwen3-VL-MoE on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
import transformers

from engines.fidelity.cases import Case
from engines.fidelity.rounded_weights import round_weights
from export.quantisation.scheme import Quantisation
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.config import ModelConfig
from qwen3vl.errors import ArtifactError
from qwen3vl.images import ImageSettings
from qwen3vl.patches import normalise

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class Reference:
    """The checkpoint as `transformers` runs it. It gets token ids and pixels only; positions are its own.

    Args:
        precision: a key of `DTYPES`; results are float32 all the same.

    Attributes:
        description: what it is.

    Raises:
        ArtifactError: the checkpoint does not fit into the free memory in that precision.
    """

    def __init__(self, checkpoint: Path, precision: str = "fp32"):
        self.config = ModelConfig.from_checkpoint(checkpoint)
        self._images, self._dtype = ImageSettings.from_checkpoint(checkpoint), DTYPES[precision]
        self.description = f"transformers {transformers.__version__}, {NAMES[precision]}, CPU"
        _require_memory(checkpoint, precision)
        transformers.utils.logging.disable_progress_bar()
        self.model = transformers.Qwen3VLMoeForConditionalGeneration.from_pretrained(checkpoint, dtype=self._dtype)
        self.model.eval()

    def round_weights(self, quantisation: Quantisation) -> None:
        """Round the decoder's weights to what the integers of that quantisation stand for; the rest stays as it is."""
        round_weights(self.model.named_parameters(), self.model.lm_head, self.config, quantisation)
        self.description += f", weights rounded to {quantisation.weights.bits} bits"

    def narrow(self, precision: str) -> None:
        """Go on in another precision, with the weights as they are now; rotary frequencies stay in float32."""
        self._dtype = DTYPES[precision]
        for parameter in self.model.parameters():
            parameter.data = parameter.data.to(self._dtype)

    @torch.no_grad()
    def visual_rows(self, case: Case) -> np.ndarray:
        """float32 [(1 + D) * N, hidden], the rows of one token adjacent."""
        if not len(case.inputs.grids):
            return np.empty((0, self.config.text.hidden_size), np.float32)
        encoded = self.model.model.visual(self._pixels(case.inputs.patches), torch.tensor(case.inputs.grids).long())
        rows = torch.stack([encoded.pooler_output, *encoded.deepstack_features], dim=1)
        return rows.flatten(0, 1).float().numpy()

    @torch.no_grad()
    def logits(self, case: Case) -> np.ndarray:
        """float32 [S, vocab_size] of the prompt."""
        return self.model(**self.inputs(case)).logits[0].float().numpy()

    @torch.no_grad()
    def greedy(self, case: Case, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """The greedy continuation int32 [T], the end-of-text token included if it comes, and its logits [T, V]."""
        inputs = self.inputs(case)
        output = self.model.generate(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]),
                                     max_new_tokens=tokens, do_sample=False, output_logits=True,
                                     return_dict_in_generate=True)
        ids = output.sequences[0, inputs["input_ids"].shape[1] :]
        return ids.int().numpy(), torch.cat(output.logits).float().numpy()

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
        return torch.from_numpy(normalise(patches, self._images)).to(self._dtype)


def _require_memory(checkpoint: Path, precision: str) -> None:
    with Checkpoint.open(checkpoint) as tensors:
        needed = DTYPES[precision].itemsize * sum(int(np.prod(tensors.shape(name))) for name in tensors.names())
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > free:
        raise ArtifactError(f"the reference needs {needed / 1e9:.1f} GB of memory for {checkpoint} in {precision}, but "
                            f"{free / 1e9:.1f} GB are free: check on a larger machine")
