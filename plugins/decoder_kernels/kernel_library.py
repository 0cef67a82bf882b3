"""The decoder's CUDA kernels, called by ctypes. csrc/decoder_kernels.h documents the functions behind it."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_size_t, c_void_p
from pathlib import Path

from qwen3vl.errors import ArtifactError

_TYPES = {"float16": 1, "bfloat16": 2}  # enum Qwen3vlType

# Arguments of each function: p a device address or stream, i an int, f a float.
_SIGNATURES = {
    "step_inputs": "pppppppppiiiiiip",
    "product": "ppppiiiiip",
    "int4_product": "pppppiiiiip",
    "int8_logits": "ppppiiiiip",
    "decode_attention": "pppppppppiiiiiffiip",
    "prefill_attention": "pppppppppiiiiiffip",
    "router": "ppppipppiiiifip",
    "experts": "ppppppppiiiiiip",
    "int4_experts": "ppppppppppiiiiiiip",
    "experts_prefill": "pppppppiiiiiip",
    "add_norm": "pppppiiifip",
    "add_norm_rows": "pppppiiiifip",
    "top_logits": "ppppppiiip",
}
_OF_CUBLAS = {"prefill_product": "ppppiiiiipip"}  # a library that was built without cuBLAS lacks them
_WORKSPACES = {"experts_prefill": 2, "top_logits": 3}  # functions that need scratch, and how many sizes say how much
_KINDS = {"p": c_void_p, "i": c_int, "f": c_float}


class DecoderKernels:
    """`libdecoder_kernels.so`, built by plugins/decoder_kernels/CMakeLists.txt."""

    def __init__(self, path: Path):
        """Load the library.

        Raises:
            ArtifactError: there is no such file, or it is not that library.
        """
        try:
            library = ctypes.CDLL(str(path))
            signatures = _SIGNATURES | {name: signature for name, signature in _OF_CUBLAS.items()
                                        if hasattr(library, f"qwen3vl_{name}")}
            self._functions = {name: getattr(library, f"qwen3vl_{name}") for name in signatures}
            self._workspaces = {name: getattr(library, f"qwen3vl_{name}_workspace") for name in _WORKSPACES}
        except (OSError, AttributeError) as error:
            raise ArtifactError(f"{path} is not the library of the decoder's kernels ({error}); build it with "
                                "cmake -S plugins/decoder_kernels -B build/decoder_kernels && "
                                "cmake --build build/decoder_kernels") from error
        for name, signature in signatures.items():
            self._functions[name].argtypes = [_KINDS[kind] for kind in signature]
            self._functions[name].restype = c_int
        for name, count in _WORKSPACES.items():
            self._workspaces[name].argtypes, self._workspaces[name].restype = [c_int] * count, c_size_t

    def call(self, name: str, *arguments: float) -> None:
        """Put one call of `qwen3vl_<name>` on its stream.

        Raises:
            ArtifactError: the library was built without it.
            RuntimeError: no kernel was compiled for these sizes, or CUDA refused the launch.
        """
        if name not in self._functions:
            raise ArtifactError(f"qwen3vl_{name} is not in this library: it was built without cuBLAS; build it with "
                                "-DWITH_CUBLAS=ON")
        status = self._functions[name](*arguments)
        if status != 0:
            raise RuntimeError(f"qwen3vl_{name}{arguments}: CUDA error {status}"
                               + (" (sizes that no kernel was compiled for)" if status == 1 else ""))

    def workspace(self, name: str, *sizes: int) -> int:
        """Bytes of scratch that `experts_prefill` (tokens, k) or `top_logits` (rows, vocabulary, k) needs."""
        return self._workspaces[name](*sizes)


def type_number(dtype: str) -> int:
    """The library's number of "float16" or "bfloat16"."""
    return _TYPES[dtype]
