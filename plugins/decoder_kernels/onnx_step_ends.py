"""StepInputs and TopLogits in ONNX's standard operators: bodies of their functions."""

from __future__ import annotations

import onnx_ir as ir

from plugins.function_body import FunctionBody


def step_inputs(body: FunctionBody, token_ids: ir.Value, chosen: ir.Value, table: ir.Value, position_ids: ir.Value,
                axes: ir.Value, frequencies: ir.Value) -> tuple[ir.Value, ...]:
    zero, none = body.integers(0), body.integers(-1)
    ids = body.op("CastLike", token_ids, chosen)
    is_chosen = body.op("Less", ids, zero)
    # Behind all that is chosen comes an id that no row has.
    count = body.op("Shape", chosen)
    place = body.op("Min", body.op("Sub", none, ids), count)
    stands = body.op("Gather", body.op("Concat", chosen, none, axis=0), body.op("Where", is_chosen, place, count))
    ids = body.op("Where", is_chosen, stands, ids)
    known = body.op("And", body.op("Not", body.op("Less", ids, zero)),
                    body.op("Less", ids, body.op("Shape", table, end=1)))
    words = body.op("Gather", table, body.op("Where", known, ids, zero), axis=0)
    hidden = body.op("Mul", words, body.op("CastLike", body.op("Unsqueeze", known, none), table))
    by_frequency = body.op("Gather", body.op("CastLike", position_ids, frequencies), axes, axis=0)
    angles = body.op("Mul", body.op("Transpose", by_frequency, perm=[1, 2, 0]), frequencies)
    return hidden, body.op("Cos", angles), body.op("Sin", angles)


def top_logits(body: FunctionBody, logits: ir.Value, draws: ir.Value) -> tuple[ir.Value, ...]:
    best, ids = body.op("TopK", logits, body.attribute_integer("k"), count=2, axis=-1)
    temperature, top_k, top_p, uniform = body.op("Split", draws, count=4, axis=-1, num_outputs=4)
    zero, one = (body.op("CastLike", body.integers(number), draws) for number in (0, 1))
    ranks = body.op("Range", body.op("Constant", value_int=0), body.op("Constant", of_function={"value_int": "k"}),
                    body.op("Constant", value_int=1))
    real_ranks = body.op("CastLike", ranks, draws)

    likeliest = body.op("Equal", temperature, zero)
    divisor = body.op("Where", likeliest, one, temperature)
    scaled = body.op("Div", body.op("CastLike", best, draws), divisor)
    below_top_k = body.op("Or", body.op("Less", top_k, one), body.op("Less", real_ranks, top_k))
    exponentials = body.op("Exp", body.op("Sub", scaled, _at(body, scaled, 0)))
    shares = body.op("Where", below_top_k, exponentials, zero)

    sums = _sums(body, shares)
    target = body.op("Mul", top_p, _at(body, sums, -1))
    reached_before = body.op("GreaterOrEqual", _sums(body, shares, exclusive=1), target)
    not_cut = body.op("Or", body.op("Less", real_ranks, one), body.op("Not", reached_before))
    below_top_p = body.op("Or", body.op("GreaterOrEqual", top_p, one), not_cut)
    kept = body.op("And", below_top_k, below_top_p)

    by_id, order = body.op("TopK", ids, body.attribute_integer("k"), count=2, axis=-1, largest=0)
    sums = _sums(body, body.op("GatherElements", body.op("Where", kept, shares, zero), order, axis=-1))
    threshold = body.op("Mul", uniform, _at(body, sums, -1))
    not_above = body.op("CastLike", body.op("Not", body.op("Greater", sums, threshold)), ids)
    kept_by_id = body.op("GatherElements", body.op("CastLike", kept, ids), order, axis=-1)
    last = body.op("ReduceMax", body.op("Mul", kept_by_id, ranks), body.integers(-1))
    place = body.op("Min", body.op("ReduceSum", not_above, body.integers(-1)), last)
    drawn = body.op("GatherElements", by_id, place, axis=-1)
    return best, ids, body.op("Squeeze", body.op("Where", likeliest, _at(body, ids, 0), drawn), body.integers(-1))


def _at(body: FunctionBody, x: ir.Value, place: int) -> ir.Value:
    """One column: [N, 1] of [N, K]."""
    return body.op("Gather", x, body.integers(place), axis=-1)


def _sums(body: FunctionBody, x: ir.Value, exclusive: int = 0) -> ir.Value:
    return body.op("CumSum", x, body.op("Constant", value_int=-1), exclusive=exclusive)
