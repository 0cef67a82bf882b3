"""The kernels for weights of 4 bits beside torch in double precision, on the weights that the codes stand for."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench.decoder_cuda.experts_reference import routings
from bench.decoder_cuda.int4_model import Int4Rows, Int8Rows
from bench.decoder_cuda.model import Shape, element_type
from bench.decoder_cuda.watch import watched
from plugins.decoder_kernels.kernel_library import DecoderKernels

TOKENS = (1, 2, 5, 8, 9, 16, 32, 64, 128, 250)
FEWER_TOKENS = (1, 16, 128, 250)  # for other blocks than the exporter's
LARGEST_ERROR = {torch.bfloat16: 5e-3, torch.float16: 8e-4}
EXPORTED_BLOCK = 128
LOGITS = 40000  # enough that blocks have a long stream of them


def cases() -> Iterator[tuple[torch.dtype, int, int]]:
    """Type, block and tokens of each check."""
    for block in (EXPORTED_BLOCK, 64, 32):
        for dtype in (torch.bfloat16, torch.float16):
            for tokens in TOKENS if block == EXPORTED_BLOCK else FEWER_TOKENS:
                yield dtype, block, tokens


def check_products(kernels: DecoderKernels, shape: Shape) -> dict[str, float]:
    """Relative errors |out - reference| / |reference|; NaN where something is not written, or not alike in two runs."""
    errors = {}
    for dtype, block, tokens in cases():
        heads = shape.heads * shape.head_size
        for rows, inner, added in ((shape.qkv, shape.hidden, False), (shape.hidden, heads, True)):
            name = f"product, {_name(dtype)}, blocks of {block}, {tokens} tokens, {rows} x {inner}"
            with watched(name):
                weights = Int4Rows.random(rows, inner, block=block, dtype=dtype)
                x = torch.randn(tokens, inner, device="cuda", dtype=dtype) + 0.2  # sums of x count too
                residual = torch.randn(tokens, rows, device="cuda", dtype=dtype) if added else None
                outputs = []
                for _ in range(2):
                    out = torch.full((tokens, rows), torch.nan, device="cuda", dtype=dtype)
                    _call(kernels, "int4_product", out, x, residual, weights.codes, weights.blocks, tokens, rows, inner,
                          block, element_type(dtype))
                    outputs.append(out)
                expected = x.double() @ weights.wide().T + (residual.double() if added else 0)
                errors[name] = _error(outputs, expected)
        name = f"logits, {_name(dtype)}, blocks of {block}, {tokens} tokens"
        with watched(name):
            errors[name] = _check_logits(kernels, shape.hidden, dtype, block, tokens)
    return errors


def _check_logits(kernels: DecoderKernels, inner: int, dtype: torch.dtype, block: int, tokens: int) -> float:
    weights = Int8Rows.random(LOGITS, inner, block=block, dtype=dtype)
    x = torch.randn(tokens, inner, device="cuda", dtype=dtype) + 0.2
    outputs = []
    for _ in range(2):
        out = torch.full((tokens, LOGITS), torch.nan, device="cuda")
        _call(kernels, "int8_logits", out, x, weights.codes, weights.blocks, tokens, LOGITS, inner, block,
              element_type(dtype))
        outputs.append(out)
    return _error(outputs, x.double() @ weights.wide().T)


def check_experts(kernels: DecoderKernels, shape: Shape) -> dict[str, float]:
    """As `check_products`; `y` of each pair of token and expert."""
    errors = {}
    for dtype, block, tokens in cases():
        gate_up = Int4Rows.random(shape.experts, 2 * shape.inner, shape.hidden, block=block, dtype=dtype)
        down = Int4Rows.random(shape.experts, shape.hidden, shape.inner, block=block, dtype=dtype)
        for routing, chosen in routings(tokens, shape.chosen, shape.experts).items():
            name = f"experts, {_name(dtype)}, blocks of {block}, {tokens} tokens, {routing}"
            with watched(name):
                x = torch.randn(tokens, shape.hidden, device="cuda", dtype=dtype) + 0.1
                chosen = chosen.to("cuda", torch.int32)
                weights = torch.randn(tokens, shape.chosen, device="cuda").softmax(-1)
                outputs, pairs = [], tokens * shape.chosen
                for _ in range(2):
                    activations = torch.full((pairs, shape.inner), torch.nan, device="cuda", dtype=dtype)
                    y = torch.full((tokens, shape.chosen, shape.hidden), torch.nan, device="cuda", dtype=dtype)
                    counters = torch.zeros(shape.counters, device="cuda", dtype=torch.int32)
                    _call(kernels, "int4_experts", y, activations, counters, x, chosen, weights, gate_up.codes,
                          gate_up.blocks, down.codes, down.blocks, tokens, shape.chosen, shape.experts, shape.hidden,
                          shape.inner, block, element_type(dtype))
                    outputs.append(y)
                errors[name] = _error(outputs, _experts(x, chosen, weights, gate_up, down))
    return errors


def _experts(x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, gate_up: Int4Rows,
             down: Int4Rows) -> torch.Tensor:
    out = torch.zeros(*chosen.shape, x.shape[1], device=x.device, dtype=torch.float64)
    for expert in chosen.unique().tolist():
        tokens, choices = (chosen == expert).nonzero(as_tuple=True)
        gate, up = (x[tokens].double() @ gate_up[expert].wide().T).view(len(tokens), -1, 2).unbind(2)
        outputs = (gate * gate.sigmoid() * up) @ down[expert].wide().T
        out[tokens, choices] = outputs * weights[tokens, choices, None].double()
    return out


def _error(outputs: list[torch.Tensor], expected: torch.Tensor) -> float:
    if not torch.equal(*outputs):
        return float("nan")
    error = float((outputs[0].double() - expected).norm() / expected.norm())
    print(f"  error {error:.2e}", flush=True)
    return error


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _call(kernels: DecoderKernels, name: str, *arguments: torch.Tensor | int | None) -> None:
    addresses = (x.data_ptr() if isinstance(x, torch.Tensor) else x for x in arguments)
    kernels.call(name, *addresses, torch.cuda.current_stream().cuda_stream)
