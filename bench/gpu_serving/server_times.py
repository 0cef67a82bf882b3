"""What a server says its models took."""

from __future__ import annotations

from types import TracebackType

import tritonclient.grpc

MODELS = ("preprocess", "vision_encoder", "decoder", "postprocess")


class ServerTimes:
    """Takes the difference of Triton's statistics over the body of a `with`.

    Attributes:
        milliseconds: for each model, the mean for each request of what Triton counts: `queue`, `compute_input`,
            `compute_infer`, `compute_output`; for models with many responses to a request also `first_response`, until
            the first of them. What Triton does not count is left out.
    """

    def __init__(self, url: str):
        self._client = tritonclient.grpc.InferenceServerClient(url)
        self.milliseconds: dict[str, dict[str, float]] = {}

    def __enter__(self) -> ServerTimes:
        self._before = self._read()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        after = self._read()
        self._client.close()
        for model, counters in after.items():
            spent = {}
            for name, (count, nanoseconds) in counters.items():
                before_count, before_nanoseconds = self._before.get(model, {}).get(name, (0, 0))
                if count > before_count:
                    spent[name] = 1e-6 * (nanoseconds - before_nanoseconds) / (count - before_count)
            self.milliseconds[model] = spent

    def _read(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Count and sum of nanoseconds of each counter of each model."""
        found = {}
        for each in self._client.get_inference_statistics().model_stats:
            if each.name not in MODELS:
                continue
            stats = each.inference_stats
            found[each.name] = {name: (value.count, value.ns) for name in (
                "queue", "compute_input", "compute_infer", "compute_output") for value in [getattr(stats, name)]}
            if first := each.response_stats.get("0"):
                found[each.name]["first_response"] = (first.compute_infer.count, first.compute_infer.ns)
        return found
