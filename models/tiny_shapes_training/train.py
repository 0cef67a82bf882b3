"""Trains the bundled checkpoint from nothing; same seed, same machine: same weights.

    python -m models.tiny_shapes_training.train --output models/tiny-shapes --device cuda
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from models.tiny_shapes_training.batches import Batch, TrainingBatches
from models.tiny_shapes_training.initialise import initialise
from models.tiny_shapes_training.optimisation import TrainingStep, learning_rate
from models.tiny_shapes_training.prepare import prepare
from models.tiny_shapes_training.save import save_weights
from qwen3vl.processor import Processor
from qwen3vl.torch_model import TorchModel

STEPS_BETWEEN_SAVES = 1000
KEPT_BATCHES = 300


def main() -> None:
    args = _arguments()
    _be_deterministic(args.seed)
    prepare(args.output, args.seed)
    processor = Processor.from_checkpoint(args.output)
    model = TorchModel(processor.config)
    initialise(model)
    train(model.to(args.device), TrainingBatches(processor, args.seed, args.steps // args.uses, args.batch), args)
    save_weights(model, args.output)


def train(model: TorchModel, batches: TrainingBatches, args: argparse.Namespace) -> None:
    # By the default strategy each tensor needs an answer of the process that sent it, which is busy.
    torch.multiprocessing.set_sharing_strategy("file_system")
    loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=args.workers,
                                         pin_memory=args.device != "cpu", prefetch_factor=4 if args.workers else None)
    train_on, started = None, time.monotonic()
    for step, batch in enumerate(replayed(loader, args.uses, args.device, random.Random(args.seed))):
        train_on = train_on or TrainingStep(model, batch)
        train_on.learning_rate.fill_(learning_rate(step, args.steps))
        train_on(batch)
        if (step + 1) % args.report == 0:
            loss = train_on.loss.item() / args.report
            rate = args.report / (time.monotonic() - started)
            print(f"step {step + 1}/{args.steps}  loss {loss:.4f}  {rate:.1f} steps/s  "
                  f"{(args.steps - step - 1) / rate:.0f} s left", flush=True)
            train_on.loss.zero_()
            started = time.monotonic()
        if (step + 1) % STEPS_BETWEEN_SAVES == 0:
            save_weights(model, args.output)


def replayed(batches: Iterable[Batch], uses: int, device: str, rng: random.Random) -> Iterator[Batch]:
    """Each batch when it comes, then, until the next one, random ones of the last KEPT_BATCHES, kept on the device.

    Processors make batches more slowly than a GPU uses them; this way each serves `uses` times on average.
    """
    kept: deque[Batch] = deque(maxlen=KEPT_BATCHES)
    for batch in batches:
        kept.append(batch.to(device))
        yield kept[-1]
        for _ in range(uses - 1):
            yield rng.choice(kept)


def _be_deterministic(seed: int) -> None:
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs a pass over every output


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="checkpoint folder to fill")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=5580)
    parser.add_argument("--batch", type=int, default=128, help="conversations a step")
    parser.add_argument("--uses", type=int, default=5, help="steps that see a batch, on average")
    parser.add_argument("--workers", type=int, default=15, help="processes that prepare batches")
    parser.add_argument("--report", type=int, default=200, help="steps between progress lines")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
