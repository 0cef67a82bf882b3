"""What a person at the terminal sees of a measurement."""

from __future__ import annotations

from bench.serve.calibration import Calibration
from bench.serve.memory import MemoryTrend
from bench.serve.statistics import LoadSummary, Spread
from bench.serve.target import Target
from bench.serve.verify import Verification
from bench.serve.workload import Workload

HEADER = (f"{'load':>16} {'answered':>8} {'errors':>7} | {'requests/s':>10} {'tokens/s':>8} | first token, s: p50 "
          f"{'p90':>7} {'p99':>7} | between tokens, ms: p50 {'p90':>6} {'p99':>6} {'max':>6} | queue")


def introduction(target: Target, workload: Workload, found: Calibration) -> str:
    """What is measured, in a few lines."""
    sizes = ", ".join(f"{width}x{height} ({tokens} tokens)" for (width, height), tokens in zip(
        workload.image_sizes, found.image_tokens, strict=False)) or "none"
    text, images, answer = workload.text_tokens, workload.images, workload.answer_tokens
    return (f"{target.name} {target.version} at {target.url}\n"
            f"requests: {text.least} to {text.most} tokens of text, {images.least} to {images.most} images of {sizes}, "
            f"answers of at most {answer.least} to {answer.most} tokens, seed {workload.seed}")


def row(load: LoadSummary) -> str:
    name = f"{load.concurrency} at a time" if load.offered is None else f"{load.offered:.3g} requests/s"
    line = (f"{name:>16} {load.answered:>8} {sum(load.errors.values()):>7} | {load.requests_per_second:>10.3g} "
            f"{load.tokens_per_second:>8.1f} | {_times(load.first_token, 1, (20, 7, 7))} | "
            f"{_times(load.gap, 1e3, (23, 6, 6, 6))} | {'?' if load.queued is None else f'{load.queued:.0f}':>5}")
    notes = [*(["does not keep up"] if load.saturated else []),
             *(f"{count} {kind}: {load.messages[kind]}" for kind, count in load.errors.items())]
    return "\n".join([line, *(f"{'':>17}{note}" for note in notes)])


def conclusion(verification: Verification | None, memory: MemoryTrend | None) -> list[str]:
    lines = []
    if memory:
        lines.append(f"memory that the server allocated: {memory.first_bytes / 2**20:.0f} MiB after settling, "
                     f"{memory.last_bytes / 2**20:.0f} MiB at the end, {memory.largest_bytes / 2**20:.0f} MiB at most")
    if verification:
        lines.append(f"answers under load that differ from those alone: {len(verification.differences)} of "
                     f"{verification.compared}")
        lines += [f"  request {one.index}: alone {one.alone!r}, under load {one.under_load!r}"
                  for one in verification.differences[:5]]
    return lines


def _times(spread: Spread | None, scale: float, widths: tuple[int, ...]) -> str:
    values = (spread.p50, spread.p90, spread.p99, spread.largest) if spread else (None,) * 4
    return " ".join(f"{'-' if value is None else f'{scale * value:.3g}':>{width}}"
                    for value, width in zip(values, widths, strict=False))
