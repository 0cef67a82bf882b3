"""From measurements with few layers to the whole model, and how far it is from the floor."""

from __future__ import annotations

from bench.decoder_cpu.floor import step_bytes
from qwen3vl.config import TextConfig

ALL_LAYERS = 48


def summary(entries: dict) -> dict:
    """For everybody who was measured: seconds a layer, all layers extrapolated, tokens a second, share of the floor.

    Two measurements with `few` and `many` layers give a layer's cost and what does not depend on layers. The floor is
    by the bandwidth measured right before and after.
    """
    text = TextConfig(**{**entries["model"], "mrope_section": tuple(entries["model"]["mrope_section"]),
                         "mlp_only_layers": tuple(entries["model"]["mlp_only_layers"])})
    return {name: _of_one(name, measured, entries, text) for name, measured in entries["measured"].items()}


def _of_one(name: str, measured: dict, entries: dict, text: TextConfig) -> dict:
    few, many = entries["layers"]
    past, precision = entries["loads"]["past"], _precision(name)
    first, second = measured[str(few)], measured[str(many)]
    bandwidth = max(first["read_bytes_per_second"], second["read_bytes_per_second"])
    result: dict = {"read_bytes_per_second": bandwidth, "decode": {}, "prefill": {}}
    for batch in second["decode_seconds"]:
        seconds = _extrapolate(first["decode_seconds"][batch], second["decode_seconds"][batch], few, many)
        floor = step_bytes(text, precision, ALL_LAYERS, int(batch), past) / bandwidth
        result["decode"][batch] = {**seconds, "tokens_per_second": int(batch) / seconds["all_layers"],
                                   "floor_seconds": floor, "share_of_floor": floor / seconds["all_layers"]}
        measured_floor = step_bytes(text, precision, many, int(batch), past) / bandwidth
        result["decode"][batch]["measured_share_of_floor"] = measured_floor / second["decode_seconds"][batch]
    for length in second["prefill_seconds"]:
        seconds = _extrapolate(first["prefill_seconds"][length], second["prefill_seconds"][length], few, many)
        result["prefill"][length] = {**seconds, "tokens_per_second": int(length) / seconds["all_layers"]}
    resident = [measured[str(layers)]["memory"]["resident"] for layers in (few, many)]
    result["resident_bytes"] = _extrapolate(*resident, few, many)["all_layers"]
    for layers in set(measured) - {str(few), str(many)}:
        result["extrapolation_checked"] = {
            layers: {batch: {"measured": seconds, "extrapolated": _extrapolate(
                first["decode_seconds"][batch], second["decode_seconds"][batch], few, many, int(layers))["all_layers"]}
                for batch, seconds in measured[layers]["decode_seconds"].items()}}
    return result


def _extrapolate(first: float, second: float, few: int, many: int, layers: int = ALL_LAYERS) -> dict[str, float]:
    a_layer = (second - first) / (many - few)
    return {"a_layer": a_layer, "without_layers": first - few * a_layer, "all_layers": first + (layers - few) * a_layer}


def _precision(name: str) -> str:
    """Names begin with a precision, those of the peer after its own name."""
    return name.removeprefix("transformers ").split(",")[0]
