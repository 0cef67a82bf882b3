"""Attention of a chunk of one sequence: checked beside torch in double precision, then timed beside its peers.

    python -m bench.decoder_cuda.attention_prefill --kernels libdecoder_kernels.so --output out.json

Each check has its own time limit, after which the program ends and says which one hung. A wrong result does not keep
the others from being checked; an error of CUDA does, as it leaves the process without a usable device.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from bench.cuda_timing import PEAK, graph_of, milliseconds
from bench.decoder_cuda.model import Shape, element_type, random_norm
from bench.decoder_cuda.record import Record, parser
from bench.decoder_cuda.watch import watched
from plugins.decoder_kernels.kernel_library import DecoderKernels

LARGEST_ERROR = {torch.bfloat16: 5e-3, torch.float16: 8e-4}  # of results; weights and results are rounded
LARGEST_KEY_ERROR = {torch.bfloat16: 2e-3, torch.float16: 3e-4}  # they are rounded once
TOKENS, PASTS = (1, 2, 17, 64, 129, 512, 1024, 2048), (0, 1, 63, 1000)
TIMED = ((64, 0), (256, 0), (512, 0), (1024, 0), (2048, 0), (4096, 0), (512, 2048), (512, 16384), (17, 1000))
REPEATED = 8  # calls of one graph


@dataclass(frozen=True)
class Attention:
    """A chunk's inputs, the cache after `past` tokens, and room for the result."""

    qkv: torch.Tensor
    query_norm: torch.Tensor
    key_norm: torch.Tensor
    cosines: torch.Tensor
    sines: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    total: torch.Tensor
    out: torch.Tensor

    @classmethod
    def random(cls, shape: Shape, tokens: int, past: int, spare: int, dtype: torch.dtype) -> Attention:
        """The cache has room for `spare` more tokens; there and where new ones will be it is NaN."""
        s = shape
        angles = torch.rand(tokens, s.head_size // 2, device="cuda") * 6.28
        cache = torch.full((2, s.kv_heads, past + tokens + spare, s.head_size), torch.nan, device="cuda", dtype=dtype)
        cache[:, :, :past].normal_()
        qkv = torch.randn(tokens, s.qkv, device="cuda", dtype=dtype)
        query_norm, key_norm = random_norm(s.head_size, dtype), random_norm(s.head_size, dtype)
        return cls(qkv, query_norm, key_norm, angles.cos(), angles.sin(), cache[0], cache[1],
                   torch.tensor([past + tokens], device="cuda", dtype=torch.int32),
                   torch.full((tokens, s.heads * s.head_size), torch.nan, device="cuda", dtype=dtype))

    def run(self, kernels: DecoderKernels, shape: Shape) -> None:
        s = shape
        addresses = [x.data_ptr() for x in (self.out, self.qkv, self.query_norm, self.key_norm, self.cosines,
                                            self.sines, self.keys, self.values, self.total)]
        kernels.call("prefill_attention", *addresses, len(self.qkv), s.heads, s.kv_heads, s.head_size,
                     self.keys.shape[1], s.epsilon, s.head_size**-0.5,
                     element_type(self.qkv.dtype), torch.cuda.current_stream().cuda_stream)

    def heads(self, shape: Shape) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries and keys, normed and turned, and values: float64 [heads, tokens, head_size]."""
        s = shape
        parts = self.qkv.double().view(len(self.qkv), -1, s.head_size).transpose(0, 1)
        query, key, value = parts.split([s.heads, s.kv_heads, s.kv_heads])
        return self._turned(query, self.query_norm, s), self._turned(key, self.key_norm, s), value

    def _turned(self, x: torch.Tensor, norm: torch.Tensor, shape: Shape) -> torch.Tensor:
        x = x * (x.square().mean(-1, keepdim=True) + shape.epsilon).rsqrt() * norm.double()
        first, second = x.chunk(2, -1)
        cosine, sine = self.cosines.double(), self.sines.double()
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def reference(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The last tokens' attention to all tokens, themselves and those before them.

    Args:
        queries: float64 [heads, tokens, size].
        keys, values: float [kv_heads, total, size].

    Returns:
        float64 [tokens, heads * size].
    """
    sharing, tokens, total = len(queries) // len(keys), queries.shape[1], keys.shape[1]
    hidden = torch.ones(tokens, total, device=queries.device, dtype=torch.bool).triu(total - tokens + 1)
    outputs = []
    for group, key, value in zip(queries.split(sharing), keys.double(), values.double(), strict=True):
        scores = (group @ key.T * group.shape[-1] ** -0.5).masked_fill_(hidden, -torch.inf)
        outputs.append(scores.softmax(-1) @ value)
    return torch.cat(outputs).transpose(0, 1).flatten(1)


def check(kernels: DecoderKernels, shape: Shape, dtype: torch.dtype) -> list[str]:
    """What is wrong, one line each."""
    bad = []
    for tokens in TOKENS:
        for past in PASTS:
            for spare in (0, 77):
                name = f"{str(dtype).removeprefix('torch.')}, {tokens} tokens after {past}, room for {spare} more"
                with watched(name):
                    bad += [f"{name}: {what}" for what in _faults(kernels, shape, tokens, past, spare, dtype)]
    return bad


def _faults(kernels: DecoderKernels, shape: Shape, tokens: int, past: int, spare: int, dtype: torch.dtype) -> list[str]:
    a, total = Attention.random(shape, tokens, past, spare, dtype), past + tokens
    before = [x.clone().view(torch.int16) for x in (a.keys, a.values)]
    a.run(kernels, shape)
    queries, keys, values = a.heads(shape)
    expected = reference(queries.to(dtype).double(), a.keys[:, :total], a.values[:, :total])
    difference = (a.out.double() - expected).norm(dim=1) / expected.norm(dim=1)
    error = float((a.out.double() - expected).norm() / expected.norm())
    key_error = float((a.keys[:, past:total].double() - keys).norm() / keys.norm())
    print(f"  error {error:.2e}, of the worst token {float(difference.max()):.2e}, of keys {key_error:.2e}", flush=True)
    faults = []
    if not error < LARGEST_ERROR[dtype] or not float(difference.max()) < 4 * LARGEST_ERROR[dtype]:
        wrong = (~(difference < 4 * LARGEST_ERROR[dtype])).nonzero().flatten().tolist()
        faults.append(f"error {error:.2e}; wrong tokens {wrong[:8]} and more, {len(wrong)} in all")
    if not key_error < LARGEST_KEY_ERROR[dtype]:
        faults.append(f"error of the appended keys {key_error:.2e}")
    if not torch.equal(a.values[:, past:total].double(), values):
        faults.append("other values were appended")
    for part, old, new in zip(("keys", "values"), before, (a.keys, a.values), strict=True):
        bits = new.view(torch.int16)
        if not torch.equal(old[:, :past], bits[:, :past]) or not torch.equal(old[:, total:], bits[:, total:]):
            faults.append(f"{part} of other tokens were written")
    first = a.out.clone()
    a.run(kernels, shape)
    if not torch.equal(first.view(torch.int16), a.out.view(torch.int16)):
        faults.append("another result the second time")
    return faults


def time_chunk(kernels: DecoderKernels, shape: Shape, tokens: int, past: int, dtype: torch.dtype) -> dict:
    """Microseconds of one call, with norms, rotation and append, and of torch's attention without them."""
    a = Attention.random(shape, tokens, past, 16, dtype)
    microseconds = {"chunk": _microseconds(lambda: a.run(kernels, shape))}
    if past == 0:
        query, key, value = (x.to(dtype)[None] for x in a.heads(shape))
        key, value = (x.repeat_interleave(shape.heads // shape.kv_heads, 1) for x in (key, value))
        for peer, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cuDNN", SDPBackend.CUDNN_ATTENTION)):
            try:
                with sdpa_kernel(backend):
                    microseconds[peer] = _microseconds(
                        lambda: scaled_dot_product_attention(query, key, value, is_causal=True))
            except RuntimeError as error:
                print(f"  torch, {peer}: {error}")
    operations = 4 * shape.heads * shape.head_size * sum(range(past + 1, past + tokens + 1))
    return {"tokens": tokens, "past": past, "microseconds": microseconds, "floor_us": operations / PEAK * 1e6,
            "tera_operations_per_second": operations / microseconds["chunk"] / 1e6}


def _microseconds(work) -> float:
    return milliseconds(graph_of(lambda: [work() for _ in range(REPEATED)]), 15) * 1e3 / REPEATED


def main() -> None:
    args = parser(__doc__).parse_args()
    torch.manual_seed(0)
    shape, kernels, record = Shape(), DecoderKernels(args.kernels), Record(args.output, "attention_prefill")
    bad = check(kernels, shape, torch.bfloat16) + check(kernels, shape, torch.float16)
    record.add("wrong", bad)
    print("\n".join(["WRONG:", *bad]) if bad else "all outputs are right", flush=True)
    rows = []
    for tokens, past in TIMED:
        with watched(f"timing {tokens} tokens after {past}"):
            rows.append(time_chunk(kernels, shape, tokens, past, torch.bfloat16))
            record.add("timed", rows)
    for row in rows:
        times = ", ".join(f"{name} {value:.1f}" for name, value in row["microseconds"].items())
        print(f"{row['tokens']:5} tokens after {row['past']:5}: us: {times}; floor {row['floor_us']:.1f}; "
              f"{row['tera_operations_per_second']:.0f} TFLOP/s")
    print(json.dumps({"wrong": len(bad)}))
    if bad:
        raise SystemExit("some outputs are wrong")


if __name__ == "__main__":
    main()
