"""The loss, the optimiser, and one step of training, recorded as a CUDA graph where there is CUDA."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.tiny_shapes_training.batches import Batch
from models.tiny_shapes_training.examples import IGNORED
from qwen3vl.torch_decoder import Router
from qwen3vl.torch_model import TorchModel

LEARNING_RATE = 1.5e-3
WARMUP_STEPS = 300
WEIGHT_DECAY = 0.05
GRADIENT_NORM = 1.0
BALANCE_LOSS = 0.01
# How often a frame's embedding rows are zeroed, so that the decoder learns to see through DeepStack's rows.
EMBEDDING_DROPOUT = 0.2
WARMUP_RUNS = 3


class TrainingStep:
    """Call it with a batch to train on it. All batches have the shapes of the first.

    The model is so small that launching its kernels one by one takes longer than running them: on CUDA the whole step,
    optimiser included, is recorded once and replayed.

    Attributes:
        loss: sum of the answer losses since it was last zeroed.
        learning_rate: a tensor to fill before each step.
    """

    def __init__(self, model: TorchModel, first: Batch) -> None:
        device = first.token_ids.device
        self.loss = torch.zeros((), device=device)
        self.learning_rate = torch.zeros((), device=device)
        self._model, self._batch = model, first.clone()
        self._routers = _RouterWatch(model)
        self._optimizer = torch.optim.AdamW(_parameter_groups(model), lr=self.learning_rate, betas=(0.9, 0.95),
                                            fused=True, capturable=device.type == "cuda")
        self._graph = self._record() if device.type == "cuda" else None

    def __call__(self, batch: Batch) -> None:
        self._batch.copy_(batch)
        if self._graph:
            self._graph.replay()
        else:
            self._run()

    def _run(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        device = self.loss.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False):
            loss = answer_loss(self._model, self._batch)
        (loss + BALANCE_LOSS * self._routers.balance_loss()).backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), GRADIENT_NORM)
        self._optimizer.step()
        self.loss += loss.detach()

    def _record(self) -> torch.cuda.CUDAGraph:
        # The runs before recording have a learning rate of 0; only the optimiser's moments keep a trace of them.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_RUNS):
                self._run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self._optimizer.zero_grad(set_to_none=True)
        # Meanwhile the data loader's thread pins memory, which by default would spoil the recording.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._run()
        self.loss.zero_()
        return graph


def answer_loss(model: TorchModel, batch: Batch) -> Tensor:
    """Mean cross-entropy of the answers' tokens."""
    rows = [_drop_embeddings(model.vision_encoder(*frames.tensors()), len(frames.patches), model.config.rows_per_token)
            for frames in batch.frames if len(frames.patches)]
    logits = model.decoder(batch.token_ids, torch.cat(rows), batch.position_ids)
    return F.cross_entropy(logits.flatten(0, 1).float(), batch.labels.flatten(), ignore_index=IGNORED)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to 1 %."""
    warmup = min(WARMUP_STEPS, steps // 10 + 1)
    if step < warmup:
        return LEARNING_RATE * (step + 1) / warmup
    return LEARNING_RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))))


def _drop_embeddings(rows: Tensor, frames: int, rows_per_token: int) -> Tensor:
    kept = (torch.rand(frames, 1, 1, device=rows.device) >= EMBEDDING_DROPOUT).to(rows.dtype)
    embedding, levels = rows.view(frames, -1, rows_per_token, rows.shape[-1]).split([1, rows_per_token - 1], dim=2)
    return torch.cat([embedding * kept[..., None], levels], dim=2).view(rows.shape)


class _RouterWatch:
    """Collects what the routers choose in a forward pass."""

    def __init__(self, model: TorchModel) -> None:
        self._seen: list[tuple[Tensor, Tensor]] = []
        for module in model.decoder.modules():
            if isinstance(module, Router):
                module.register_forward_hook(self._look)

    def balance_loss(self) -> Tensor:
        """1 where all experts of a layer are used equally (Switch Transformer, equation 4); mean over the layers."""
        losses = [((chosen.mean(0) / chosen.sum(-1).mean()) * probability.mean(0)).sum() * chosen.shape[-1]
                  for chosen, probability in self._seen]
        self._seen.clear()
        return torch.stack(losses).mean()

    def _look(self, router: Router, inputs: tuple[Tensor], shares: Tensor) -> None:
        probability = F.linear(inputs[0], router.weight).softmax(-1, dtype=torch.float32)
        self._seen.append(((shares.detach() > 0).float().flatten(0, -2), probability.flatten(0, -2)))


def _parameter_groups(model: nn.Module) -> list[dict]:
    """No weight decay for norms, biases and embeddings."""
    plain = [p for name, p in model.named_parameters() if p.dim() == 1 or "embed" in name]
    chosen = set(map(id, plain))
    decayed = [p for p in model.parameters() if id(p) not in chosen]
    return [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
