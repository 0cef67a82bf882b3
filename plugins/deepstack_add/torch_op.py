"""DeepstackAdd as the torch operator `qwen3vl::deepstack_add`. Importing this module registers it.

    import plugins.deepstack_add.torch_op
    torch.ops.qwen3vl.deepstack_add(hidden, token_ids, visual_rows, level, vocab_size)

It runs on any device as torch operations; `use_kernel` gives CUDA tensors the compiled kernel.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from plugins.deepstack_add.kernel_library import KernelLibrary
from plugins.deepstack_add.operator import FLOAT_TYPES


@torch.library.custom_op("qwen3vl::deepstack_add", mutates_args=())
def deepstack_add(hidden: Tensor, token_ids: Tensor, visual_rows: Tensor, level: int, vocab_size: int) -> Tensor:
    """The operator of operator.py: each visual token's row of one level is added to its hidden state.

    Args:
        hidden: float32, float16 or bfloat16 [..., H].
        token_ids: int32, or int64 of numbers that fit into 32 bits, [...].
        visual_rows: the table, of the type of `hidden`, [R, H].
        level, vocab_size: the operator's attributes.

    Returns:
        A new tensor like `hidden`.

    Raises:
        TypeError: the types are not those.
        ValueError: the shapes do not fit together.
    """
    _check(hidden, token_ids, visual_rows)
    if len(visual_rows) == 0:
        return hidden.clone()
    row = token_ids.long() - vocab_size + level
    known = (token_ids >= vocab_size) & (row < len(visual_rows))
    rows = visual_rows[torch.where(known, row, 0)]
    return torch.where(known[..., None], hidden + rows, hidden)


@deepstack_add.register_fake
def _(hidden: Tensor, token_ids: Tensor, visual_rows: Tensor, level: int, vocab_size: int) -> Tensor:
    _check(hidden, token_ids, visual_rows)
    return torch.empty_like(hidden)


def use_kernel(path: Path) -> None:
    """Run the operator on CUDA tensors by the kernel library at `path` from now on.

    Raises:
        ArtifactError: it is not that library.
    """
    library = KernelLibrary(path)

    @deepstack_add.register_kernel("cuda")
    def _(hidden: Tensor, token_ids: Tensor, visual_rows: Tensor, level: int, vocab_size: int) -> Tensor:
        _check(hidden, token_ids, visual_rows)
        hidden, visual_rows = hidden.contiguous(), visual_rows.contiguous()
        token_ids = token_ids.to(torch.int32).contiguous()
        out = torch.empty_like(hidden)
        with torch.cuda.device(hidden.device):
            library.launch(out.data_ptr(), hidden.data_ptr(), token_ids.data_ptr(), visual_rows.data_ptr(),
                           tokens=token_ids.numel(), hidden_size=hidden.shape[-1], row_count=len(visual_rows),
                           level=level, vocab_size=vocab_size, dtype=str(hidden.dtype).removeprefix("torch."),
                           stream=torch.cuda.current_stream().cuda_stream)
        return out


def _check(hidden: Tensor, token_ids: Tensor, visual_rows: Tensor) -> None:
    if str(hidden.dtype).removeprefix("torch.") not in FLOAT_TYPES or visual_rows.dtype != hidden.dtype:
        raise TypeError(f"deepstack_add: hidden is {hidden.dtype}, visual_rows {visual_rows.dtype}; expected one type "
                        f"for both, of {', '.join(FLOAT_TYPES)}")
    if token_ids.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"deepstack_add: token_ids is {token_ids.dtype}; expected int32 or int64")
    if hidden.shape[:-1] != token_ids.shape or visual_rows.shape[1:] != hidden.shape[-1:]:
        shapes = (f"{name} {tuple(x.shape)}" for name, x in (("hidden", hidden), ("token_ids", token_ids),
                                                             ("visual_rows", visual_rows)))
        raise ValueError(f"deepstack_add: {', '.join(shapes)} do not fit together; expected [..., H], [...], [R, H]")
