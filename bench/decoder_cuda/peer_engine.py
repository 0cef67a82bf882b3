"""An engine of the decoder in ONNX Runtime as the server runs it: wall times of steps and prompts.

    python -m bench.decoder_cuda.peer_engine BUILD --output out.json

A step is one token of each sequence, from token ids to the next ones on the host. A decoder that runs ahead is timed
so, with tokens drawn at random of the 64 most likely ones, so that sequences stay different. A prompt is one sequence
in one chunk, its last token's choice alone. BUILD needs the decoder's engine, for the target `cuda`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.decoder_cuda.peer_figures import median_milliseconds, parser, write_figures
from engines.onnxruntime.cuda_decoder import CudaDecoder


class Timed:
    """A decoder that holds as many sequences as the largest step has."""

    def __init__(self, engines: Path, slots: int, capacity: int, device: str, repeats: int):
        self.decoder = CudaDecoder(engines, slots, capacity, device)
        self._random, self.repeats = np.random.default_rng(0), repeats

    def step(self, batch: int, past: int) -> Callable[[], None]:
        """Of sequences that hold `past` tokens, zeros: what is in the cache does not change how long it is read."""
        lengths, ids = np.full(batch, past + 1, np.int32), self._ids(batch)

        def step() -> None:
            for row in self.decoder.begin_step(ids, lengths - 1, lengths).rows():
                row.likeliest()

        return step

    def steps_ahead(self, batch: int, past: int) -> Callable[[], None]:
        """Each call begins a step behind the tokens that the step before chooses, then reads these."""
        lengths, fed_back = np.full(batch, past + 1, np.int32), -1 - np.arange(batch, dtype=np.int32)
        drawn = _draws(batch)
        under_way = [self.decoder.begin_step(self._ids(batch), lengths - 1, lengths, drawn)]

        def step() -> None:
            drawn[:, -1] = self._random.random(batch)
            under_way.append(self.decoder.begin_step(fed_back, lengths - 1, lengths, drawn))
            under_way.pop(0).chosen()

        return step

    def step_milliseconds(self, batch: int, past: int) -> float:
        """As the server runs them: ahead, where the decoder can."""
        steps = self.steps_ahead if self.decoder.runs_ahead else self.step
        return median_milliseconds(steps(batch, past), self.repeats)

    def prompt_milliseconds(self, tokens: int) -> float:
        positions = np.broadcast_to(np.arange(tokens, dtype=np.int32), (3, tokens))
        rows = np.empty((0, self.decoder.config.text.hidden_size), np.float32)
        ids, last = self._ids(tokens), np.array([tokens - 1], np.int32)
        return median_milliseconds(lambda: self.decoder.prefill(0, ids, positions, rows, 0, last).argmax(),
                                   self.repeats)

    def _ids(self, count: int) -> np.ndarray:
        return self._random.integers(self.decoder.config.text.vocab_size, size=count, dtype=np.int32)


def _draws(batch: int) -> np.ndarray:
    """Of any of the 64 most likely tokens, nearly alike."""
    return np.tile([1e3, 64, 1, 0.5], (batch, 1))


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("build", type=Path)
    args = options.parse_args(argv)
    timed = Timed(args.build / "engines", max([1, *args.batches]), max([args.past + 16, *args.prompts]), args.device,
                  args.repeats)
    write_figures(args, lambda batch: timed.step_milliseconds(batch, args.past), timed.prompt_milliseconds)


if __name__ == "__main__":
    main()
