"""Time of the DeepstackAdd kernel on a GPU, beside the same as separate torch operations and a copy of the same bytes.

    nvcc -O3 -arch=sm_90 -shared -Xcompiler -fPIC -o empty.so bench/deepstack_add/empty_kernel.cu
    python -m bench.deepstack_add.bench --kernel libdeepstack_add_kernel.so --empty empty.so --output out.json

With --onnxruntime, beside the ONNX function in ONNX Runtime too (onnxruntime-gpu).
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import onnxruntime
import torch
import torch.nn.functional as F

from bench.deepstack_add.onnxruntime_function import OnnxRuntimeFunction
from bench.deepstack_add.timing import copy_microseconds, microseconds
from plugins.deepstack_add.kernel_library import KernelLibrary

VOCAB_SIZE, LEVEL, ROWS_PER_TOKEN = 151936, 1, 4
CACHE_BYTES = 600_000_000  # what sets of operands taken in turn move in one round: ten times the L2 cache
MEMORY_BYTES = 8_000_000_000  # what they may occupy
TOKENS = (1, 8, 64, 512, 2048, 8192, 32768)


@dataclass(frozen=True)
class Operands:
    """Sets of operands of equal shape: hidden and out [sets, T, H], token_ids [sets, T], visual_rows [sets, 4 T, H]."""

    hidden: torch.Tensor
    out: torch.Tensor
    token_ids: torch.Tensor
    visual_rows: torch.Tensor

    @property
    def sets(self) -> int:
        return len(self.hidden)


@dataclass(frozen=True)
class Row:
    """One line of the result."""

    tokens: int
    visual_tokens: int
    in_place: bool
    bytes: int  # the fewest that have to be read and written
    kernel_us: float
    copy_us: float  # a copy that reads and writes as many bytes
    torch_us: float | None  # as separate torch operations
    function_us: float | None  # as the operations of the ONNX function, one by one in torch
    onnxruntime_us: float | None  # as the ONNX function in ONNX Runtime

    def compared(self, bandwidth: float) -> dict[str, float | None]:
        """The row with its floor, which is its bytes at the copy bandwidth, and the share of that it reaches."""
        floor_us = self.bytes / bandwidth * 1e6
        return {**asdict(self), "floor_us": floor_us, "share_of_copy_bandwidth": floor_us / self.kernel_us}


def least_bytes(tokens: int, visual: int, hidden_size: int, element: int, in_place: bool) -> int:
    """Ids and visual tokens' table rows read once; hidden states read and written once, in place only visual ones."""
    states = visual if in_place else tokens
    return 4 * tokens + (2 * states + visual) * hidden_size * element


def make_operands(tokens: int, visual: int, hidden_size: int, dtype: torch.dtype, in_place: bool) -> Operands:
    size = least_bytes(tokens, visual, hidden_size, dtype.itemsize, in_place)
    occupied = (2 + ROWS_PER_TOKEN) * tokens * hidden_size * dtype.itemsize
    sets = max(2, min(64, -(-CACHE_BYTES // size), MEMORY_BYTES // occupied))
    random = partial(torch.randn, device="cuda", dtype=dtype)
    ids = torch.randint(VOCAB_SIZE, (sets, tokens), device="cuda", dtype=torch.int32)
    ids[:, :visual] = VOCAB_SIZE + ROWS_PER_TOKEN * torch.arange(visual, device="cuda", dtype=torch.int32)
    hidden = random(sets, tokens, hidden_size)
    return Operands(hidden, hidden if in_place else torch.empty_like(hidden), ids,
                    random(sets, ROWS_PER_TOKEN * tokens, hidden_size))


def run_kernel(library: KernelLibrary, x: Operands, index: int) -> None:
    hidden, rows = x.hidden[index], x.visual_rows[index]
    library.launch(x.out[index].data_ptr(), hidden.data_ptr(), x.token_ids[index].data_ptr(), rows.data_ptr(),
                   tokens=len(hidden), hidden_size=hidden.shape[-1], row_count=len(rows), level=LEVEL,
                   vocab_size=VOCAB_SIZE, dtype=str(hidden.dtype).removeprefix("torch."),
                   stream=torch.cuda.current_stream().cuda_stream)


def run_torch(x: Operands, index: int) -> None:
    """As one writes it in torch: a mask, an embedding lookup, a selection and a sum."""
    ids = x.token_ids[index]
    is_visual = ids >= VOCAB_SIZE
    rows = F.embedding(torch.where(is_visual, ids - VOCAB_SIZE + LEVEL, 0), x.visual_rows[index])
    torch.add(x.hidden[index], torch.where(is_visual[:, None], rows, 0), out=x.out[index])


def run_function(x: Operands, index: int) -> None:
    """The ONNX function's body: a row of zeros in front of the table, one lookup, a sum."""
    ids, rows = x.token_ids[index], x.visual_rows[index]
    offset = ids - VOCAB_SIZE + LEVEL
    known = (ids >= VOCAB_SIZE) & (offset < len(rows))
    table = torch.cat([rows.new_zeros(1, rows.shape[1]), rows])
    torch.add(x.hidden[index], F.embedding(torch.where(known, offset + 1, 0), table), out=x.out[index])


def check(library: KernelLibrary, x: Operands) -> None:
    """The kernel's output of the first set is that of the torch operations, before anything is timed."""
    hidden = x.hidden[0].clone()
    run_torch(Operands(hidden[None], x.out[:1] if x.out is not x.hidden else hidden[None], x.token_ids[:1],
                       x.visual_rows[:1]), 0)
    expected = (hidden if x.out is x.hidden else x.out[0]).clone()
    run_kernel(library, x, 0)
    if not torch.equal(x.out[0], expected):
        raise SystemExit("the kernel's output differs from torch's; nothing was timed")


def onnxruntime_microseconds(function: OnnxRuntimeFunction, x: Operands) -> float:
    """Checked against the torch operations before it is timed."""
    run_torch(x, 0)
    expected = x.out[0].clone()
    bindings = function.bindings(x.hidden, x.token_ids, x.visual_rows, x.out)
    x.out.fill_(float("nan"))
    function.session.run_with_iobinding(bindings[0])
    torch.cuda.synchronize()
    if not torch.equal(x.out[0], expected):
        raise SystemExit("ONNX Runtime's output differs from torch's; it was not timed")
    return function.microseconds(bindings)


def measure(library: KernelLibrary, tokens: int, visual: int, in_place: bool, hidden_size: int,
            dtype: torch.dtype, function: OnnxRuntimeFunction | None) -> Row:
    x = make_operands(tokens, visual, hidden_size, dtype, in_place)
    check(library, x)
    size = least_bytes(tokens, visual, hidden_size, dtype.itemsize, in_place)
    kernel_us = microseconds(partial(run_kernel, library, x), x.sets)
    torch_us, function_us = (None if in_place else microseconds(partial(run, x), x.sets)
                             for run in (run_torch, run_function))
    onnxruntime_us = None if in_place or function is None else onnxruntime_microseconds(function, x)
    return Row(tokens, visual, in_place, size, kernel_us, copy_microseconds(size, x.sets), torch_us, function_us,
               onnxruntime_us)


def copy_bandwidth(rows: Sequence[Row]) -> float:
    """Bytes a second, read and written, of the fastest of the copies that do not fit into the cache."""
    return max(row.bytes / row.copy_us * 1e6 for row in rows if row.bytes > CACHE_BYTES / 5)


def decode_batch(library: KernelLibrary, empty: ctypes.CDLL, tokens: int, hidden_size: int,
                 dtype: torch.dtype) -> dict[str, float]:
    """One decode step of a batch: text tokens as usual, and all visual; and an empty kernel of as many blocks."""
    def run_empty(_: int) -> None:
        status = empty.launch_empty_kernel(tokens // 2, 256, torch.cuda.current_stream().cuda_stream)
        assert status == 0

    empty.launch_empty_kernel.argtypes = [ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p]
    times = {"empty_kernel": microseconds(run_empty, 64, calls=512)}
    for in_place in (True, False):
        for visual in (0, tokens):
            x = make_operands(tokens, visual, hidden_size, dtype, in_place)
            name = f"{'visual' if visual else 'text'}_{'in_place' if in_place else 'out_of_place'}"
            times[name] = microseconds(partial(run_kernel, library, x), x.sets, calls=512)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", type=Path, required=True, help="libdeepstack_add_kernel.so")
    parser.add_argument("--empty", type=Path, required=True, help="library of empty_kernel.cu")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--hidden-size", type=int, default=2048)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--onnxruntime", action="store_true", help="measure the ONNX function in ONNX Runtime, too")
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    library, empty = KernelLibrary(args.kernel), ctypes.CDLL(str(args.empty))
    function = (OnnxRuntimeFunction(dtype, args.hidden_size, level=LEVEL, vocab_size=VOCAB_SIZE) if args.onnxruntime
                else None)
    rows = [measure(library, tokens, visual, in_place, args.hidden_size, dtype, function)
            for tokens in TOKENS for visual in (0, tokens) for in_place in (False, True)]
    bandwidth = copy_bandwidth(rows)
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "python -m bench.deepstack_add.bench " + " ".join(sys.argv[1:]),
        "gpu": torch.cuda.get_device_name(), "python": platform.python_version(), "torch": torch.__version__,
        "cuda": torch.version.cuda, "onnxruntime": onnxruntime.__version__ if function else None,
        "hidden_size": args.hidden_size, "dtype": args.dtype,
        "copy_bandwidth_bytes_per_second": bandwidth,
        "decode_batch_64_us": decode_batch(library, empty, 64, args.hidden_size, dtype),
        "rows": [row.compared(bandwidth) for row in rows],
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"copy bandwidth {bandwidth / 1e12:.3f} TB/s; decode batch of 64: {result['decode_batch_64_us']}")
    for row in result["rows"]:
        print(row)


if __name__ == "__main__":
    main()
