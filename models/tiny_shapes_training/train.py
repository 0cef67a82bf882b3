"""Trains the bundled checkpoint from nothing; same seed, same machine: same weights.

    python -m models.tiny_shapes_training.train --output models/tiny-shapes --device cuda
"""

from __future__ import annotations

import argparse
import math
import os
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.tiny_shapes_training.batches import IGNORED, Batch, TrainingBatches
from models.tiny_shapes_training.initialise import initialise
from models.tiny_shapes_training.prepare import prepare
from models.tiny_shapes_training.save import save_weights
from qwen3vl.processor import Processor
from qwen3vl.torch_decoder import Router
from qwen3vl.torch_model import TorchModel

LEARNING_RATE = 1.5e-3
WARMUP_STEPS = 400
WEIGHT_DECAY = 0.05
GRADIENT_NORM = 1.0
STEPS_BETWEEN_SAVES = 1000
BALANCE_LOSS = 0.01
# How often a frame's embedding rows are zeroed, so that the decoder learns to see through DeepStack's rows.
EMBEDDING_DROPOUT = 0.3


def main() -> None:
    args = _arguments()
    _be_deterministic(args.seed)
    prepare(args.output, args.seed)
    processor = Processor.from_checkpoint(args.output)
    model = TorchModel(processor.config)
    initialise(model)
    model.to(args.device)
    train(model, TrainingBatches(processor, args.seed, args.steps, args.batch), args)
    save_weights(model, args.output)


def train(model: TorchModel, batches: TrainingBatches, args: argparse.Namespace) -> None:
    # By the default strategy each tensor needs an answer of the worker that sent it, who is busy.
    torch.multiprocessing.set_sharing_strategy("file_system")
    loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=args.workers, pin_memory=args.device != "cpu",
                                         prefetch_factor=4 if args.workers else None)
    optimizer = torch.optim.AdamW(_parameter_groups(model), lr=LEARNING_RATE, betas=(0.9, 0.95), fused=True)
    router_shares = _watch_routers(model)
    if os.environ.get("TS_COMPILE"):
        vision = model.vision_encoder
        for part in (*vision.blocks, vision.merger, *vision.deepstack_merger_list, vision.patch_embed):
            part.compile(dynamic=True, backend=os.environ["TS_COMPILE"])
        for layer in model.decoder.layers:
            for part in (layer.self_attn, layer.mlp.experts, layer.input_layernorm, layer.post_attention_layernorm):
                part.compile(dynamic=False, backend=os.environ["TS_COMPILE"])
    started = time.monotonic()
    total = torch.zeros((), device=args.device)
    for step, batch in enumerate(loader):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * _schedule(step, args.steps)
        with torch.autocast(args.device, torch.bfloat16, enabled=args.device != "cpu"):
            loss = answer_loss(model, batch.to(args.device))
        balance = balance_loss(router_shares, model.config.text.num_experts)
        router_shares.clear()
        optimizer.zero_grad()
        (loss + BALANCE_LOSS * balance).backward()
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        total += loss.detach()
        if (step + 1) % args.report == 0:
            rate = args.report / (time.monotonic() - started)
            print(f"step {step + 1}/{args.steps}  loss {total.item() / args.report:.4f}  balance {balance.item():.2f}  "
                  f"{rate:.1f} steps/s  {(args.steps - step - 1) / rate:.0f} s left", flush=True)
            total.zero_()
            started = time.monotonic()
        if (step + 1) % STEPS_BETWEEN_SAVES == 0:
            save_weights(model, args.output)


def answer_loss(model: TorchModel, batch: Batch) -> Tensor:
    """Mean cross-entropy of the answers' tokens."""
    rows = [_drop_embeddings(model.vision_encoder(*frames.tensors()), frames.patches.shape[0],
                             model.config.rows_per_token) for frames in batch.frames]
    logits = model.decoder(batch.token_ids, torch.cat(rows), batch.position_ids)
    return F.cross_entropy(logits.flatten(0, 1).float(), batch.labels.flatten(), ignore_index=IGNORED)


def _drop_embeddings(rows: Tensor, frames: int, rows_per_token: int) -> Tensor:
    keep = torch.ones(frames, 1, rows_per_token, 1, device=rows.device, dtype=rows.dtype)
    keep[:, 0, 0, 0] = (torch.rand(frames, device=rows.device) >= EMBEDDING_DROPOUT).to(rows.dtype)
    return (rows.view(frames, -1, rows_per_token, rows.shape[-1]) * keep).view(rows.shape)


def balance_loss(shares: list[Tensor], experts: int) -> Tensor:
    """1 where all experts of a layer are used equally (Switch Transformer, equation 4); mean over layers.

    Args:
        shares: of each layer, (share given to each expert [N, E], router probability [N, E]).
    """
    return torch.stack([experts * ((share > 0).float().mean(0) / (share > 0).float().sum(-1).mean()
                                   * probability.mean(0)).sum() for share, probability in shares]).mean()


def _watch_routers(model: TorchModel) -> list[tuple[Tensor, Tensor]]:
    seen: list[tuple[Tensor, Tensor]] = []

    def hook(router: Router, inputs: tuple[Tensor], shares: Tensor) -> None:
        probabilities = F.linear(inputs[0], router.weight).float().softmax(-1)
        seen.append((shares.detach().flatten(0, -2), probabilities.flatten(0, -2)))

    for module in model.decoder.modules():
        if isinstance(module, Router):
            module.register_forward_hook(hook)
    return seen


def _parameter_groups(model: nn.Module) -> list[dict]:
    """No weight decay for norms, biases and embeddings."""
    plain = [p for name, p in model.named_parameters() if p.dim() == 1 or "embed" in name]
    chosen = set(map(id, plain))
    decayed = [p for p in model.parameters() if id(p) not in chosen]
    return [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to 1 % of the learning rate."""
    warmup = min(WARMUP_STEPS, steps // 10 + 1)
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _be_deterministic(seed: int) -> None:
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs a pass over every output
    torch.backends.cuda.matmul.allow_tf32 = True


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="checkpoint folder to fill")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--batch", type=int, default=128, help="conversations a step")
    parser.add_argument("--workers", type=int, default=15, help="processes that prepare batches")
    parser.add_argument("--report", type=int, default=200, help="steps between progress lines")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
