"""The CUDA kernel library, called by ctypes. csrc/deepstack_add.h documents the function behind it."""

from __future__ import annotations

import ctypes
from pathlib import Path

from qwen3vl.errors import ArtifactError

_TYPES = {"float32": 0, "float16": 1, "bfloat16": 2}  # enum Qwen3vlType


class KernelLibrary:
    """`libdeepstack_add_kernel.so`, built by plugins/deepstack_add/CMakeLists.txt."""

    def __init__(self, path: Path):
        """Load the library.

        Raises:
            ArtifactError: there is no such file, or it is not that library.
        """
        try:
            function = ctypes.CDLL(str(path)).qwen3vl_deepstack_add
        except (OSError, AttributeError) as error:
            raise ArtifactError(f"{path} is not DeepstackAdd's kernel library ({error}); build it with "
                                "cmake -S plugins/deepstack_add -B build/plugin -DWITH_TENSORRT=OFF && "
                                "cmake --build build/plugin") from error
        addresses, sizes, attributes = [ctypes.c_void_p] * 4, [ctypes.c_int64] * 3, [ctypes.c_int32] * 2
        function.argtypes = [*addresses, *sizes, *attributes, *[ctypes.c_int] * 2, ctypes.c_void_p]
        function.restype = ctypes.c_int
        self._function = function

    def launch(self, out: int, hidden: int, token_ids: int, visual_rows: int, *, tokens: int, hidden_size: int,
               row_count: int, level: int, vocab_size: int, dtype: str, stream: int) -> None:
        """Put one call on a CUDA stream. `out` may be `hidden`.

        Args:
            out, hidden, token_ids, visual_rows: device addresses of contiguous arrays [tokens, hidden_size],
                [tokens, hidden_size], int32 [tokens], [row_count, hidden_size]; `visual_rows` may be 0 for no rows.
            tokens, hidden_size, row_count: sizes.
            level, vocab_size: the operator's attributes.
            dtype: "float32", "float16" or "bfloat16", of hidden, visual_rows and out.
            stream: the address of the stream, 0 for the default one.

        Raises:
            RuntimeError: CUDA refused the launch; the message has its error number.
        """
        status = self._function(out, hidden, token_ids, visual_rows, tokens, hidden_size, row_count, level, vocab_size,
                                _TYPES[dtype], _TYPES[dtype], stream)
        if status != 0:
            raise RuntimeError(f"DeepstackAdd of {tokens} tokens of {hidden_size} {dtype}: CUDA error {status}")
