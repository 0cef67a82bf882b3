"""What a server says its models took."""

from __future__ import annotations

from types import TracebackType

import tritonclient.grpc

MODELS = ("preprocess", "vision_encoder", "decoder", "postprocess")
COUNTERS = ("queue", "compute_input", "compute_infer", "compute_output")


class ServerTimes:
    """Takes the difference of Triton's statistics over the body of a `with`.

    Attributes:
        milliseconds: for each model, the mean for each request of `COUNTERS`. Of models that answer later than they
            return, which are all but `preprocess`, Triton counts only until they return.
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
        statistics = self._client.get_inference_statistics().model_stats
        return {each.name: {name: (value.count, value.ns) for name in COUNTERS
                            for value in [getattr(each.inference_stats, name)]}
                for each in statistics if each.name in MODELS}
