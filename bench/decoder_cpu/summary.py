"""From measurements at some depths to the whole model, and how far it is from the floor."""

from __future__ import annotations

import statistics

from bench.decoder_cpu.estimate import Estimate, at_depth, median_of
from bench.decoder_cpu.floor import step_bytes, weight_bytes
from qwen3vl.config import TextConfig

ALL_LAYERS = 48
PEER = "transformers "


def summary(measured: dict, text: TextConfig, past: int) -> dict:
    """For everybody who was measured, by name.

    `layers` are those measured, `extrapolated` whether the whole model's were not among them. Times and rates of the
    whole model come with an interval (`Estimate`). The floor is the bytes that a step must read, by the speed at which
    memory was read between steps. Shares of it are those of the deepest model that ran, never extrapolated.
    """
    return {name: _of_one(name, entry, text, past) for name, entry in measured.items()}


def _of_one(name: str, entry: dict, text: TextConfig, past: int) -> dict:
    precision = _precision(name)
    depths = sorted(map(int, entry["decode_seconds"]))
    deepest = str(depths[-1])

    def whole(part: str, load: str) -> Estimate:
        return at_depth({depth: entry[part][str(depth)][load] for depth in depths}, ALL_LAYERS)

    result: dict = {"layers": depths, "extrapolated": ALL_LAYERS not in depths, "decode": {}, "prefill": {},
                    "memory": _memory(name, entry, text, deepest)}
    for batch in entry["decode_seconds"][deepest]:
        seconds, reads = whole("decode_seconds", batch), entry["decode_bandwidth"][deepest][batch]
        bandwidth = statistics.median(reads)
        shares = [step_bytes(text, precision, depths[-1], int(batch), past) / read / taken
                  for read, taken in zip(reads, entry["decode_seconds"][deepest][batch], strict=True)]
        result["decode"][batch] = {
            "seconds": seconds.to_dict(), "tokens_per_second": seconds.inverse(int(batch)).to_dict(),
            "read_bytes_per_second": bandwidth,
            "floor_seconds": step_bytes(text, precision, ALL_LAYERS, int(batch), past) / bandwidth,
            "share_of_floor": median_of(shares).to_dict()}
    for length in entry["prefill_seconds"][deepest]:
        seconds = whole("prefill_seconds", length)
        result["prefill"][length] = {"seconds": seconds.to_dict(),
                                     "tokens_per_second": seconds.inverse(int(length)).to_dict()}
    return result


def _memory(name: str, entry: dict, text: TextConfig, deepest: str) -> dict:
    """Bytes: all layers' weights by their count, and what a process took, by what it did last.

    The process has the deepest model and nothing else: that was loaded first.
    """
    if next(iter(entry["memory"])) != deepest:
        raise ValueError(f"{name} was measured with {list(entry['memory'])} layers, expected the deepest first")
    return {"weights": weight_bytes(text, _precision(name), ALL_LAYERS), "layers": int(deepest),
            "resident": {stage: used["resident"] for stage, used in entry["memory"][deepest].items()}}


def _precision(name: str) -> str:
    """The peer's names have its own first."""
    return name.removeprefix(PEER)
