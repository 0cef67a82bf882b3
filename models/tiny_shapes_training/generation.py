"""Greedy answers to many prompts at once."""

from __future__ import annotations

import torch
from torch import Tensor

from models.tiny_shapes_training.batches import Batch
from qwen3vl.torch_decoder import KeyValueCache
from qwen3vl.torch_model import TorchModel


@torch.inference_mode()
def visual_rows(model: TorchModel, batch: Batch) -> Tensor:
    """[R, H]; of a batch without pictures, none."""
    rows = [model.vision_encoder(*frames.tensors()) for frames in batch.frames if len(frames.patches)]
    return torch.cat(rows) if rows else model.decoder.lm_head.weight.new_empty(0, model.config.text.hidden_size)


@torch.inference_mode()
def generate(model: TorchModel, batch: Batch, rows: Tensor, max_tokens: int, end: int) -> list[list[int]]:
    """Answers without their end tokens.

    Prompts are padded at their end, so new tokens stand behind the padding, which no token ever sees; their positions
    are given separately and leave no gap.
    """
    count, length = batch.token_ids.shape
    token_ids, position_ids = batch.token_ids, batch.position_ids
    key_mask = torch.arange(length, device=token_ids.device) < batch.lengths[:, None]
    last = batch.lengths[:, None] - 1
    next_position = position_ids.amax(dim=0).masked_fill(~key_mask, -1).amax(dim=1) + 1
    cache, answers, running = KeyValueCache(), [], torch.ones(count, dtype=torch.bool, device=token_ids.device)
    while running.any() and len(answers) < max_tokens:
        logits = model.decoder(token_ids, rows, position_ids, cache, key_mask, last)
        tokens = logits[:, 0].argmax(-1)
        running = running & (tokens != end)
        answers.append(torch.where(running, tokens, end))
        token_ids, last = tokens[:, None], torch.zeros_like(last)
        position_ids = next_position[None, :, None].expand(3, -1, -1)
        next_position = next_position + 1
        key_mask = torch.cat([key_mask, torch.ones_like(key_mask[:, :1])], dim=1)
    rows_of_tokens = torch.stack(answers, dim=1).tolist()
    return [tokens[:tokens.index(end)] if end in tokens else tokens for tokens in rows_of_tokens]
