"""One decode step through the library's kernels."""

from __future__ import annotations

import torch

from bench.decoder_cuda.model import Buffers, Head, Layer, Shape, element_type
from plugins.decoder_kernels.kernel_library import DecoderKernels

STREAMED_TOKENS = 32  # up to so many, dense products stream their weights; beyond, they are the BLAS library's


class Step:
    """Puts kernels on the current stream, one method for each."""

    def __init__(self, kernels: DecoderKernels, shape: Shape, buffers: Buffers):
        self.kernels, self.shape, self.buffers = kernels, shape, buffers
        self.batch = len(buffers.h)
        self.type = element_type(buffers.h.dtype)

    def layer(self, layer: Layer, keys: torch.Tensor, values: torch.Tensor, next_norm: torch.Tensor) -> None:
        """From `normed` and `h` to those of the next layer, or of the head."""
        self.qkv(layer)
        self.attention(layer, keys, values)
        self.output(layer)
        self.router(layer)
        self.experts(layer)
        self.add_norm(next_norm)

    def begin(self, norm: torch.Tensor) -> None:
        """`normed` of the embeddings in `h`."""
        self.add_norm(norm, chosen=0)

    def qkv(self, layer: Layer) -> None:
        b, s = self.buffers, self.shape
        if self.batch > STREAMED_TOKENS:
            torch.matmul(b.normed, layer.qkv.T, out=b.qkv)
            return
        self._call("product", b.qkv, b.normed, None, layer.qkv, self.batch, s.qkv, s.hidden, self.type, 0)

    def attention(self, layer: Layer, keys: torch.Tensor, values: torch.Tensor, splits: int = 0) -> None:
        b, s = self.buffers, self.shape
        self._call("decode_attention", b.attended, b.qkv, layer.query_norm, layer.key_norm, b.cosines, b.sines, keys,
                   values, b.total_lengths, self.batch, s.heads, s.kv_heads, s.head_size, keys.shape[2],
                   s.epsilon, s.head_size**-0.5, self.type, splits)

    def output(self, layer: Layer) -> None:
        b, s = self.buffers, self.shape
        if self.batch > STREAMED_TOKENS:
            torch.addmm(b.h, b.attended, layer.output.T, out=b.h)
            return
        self._call("product", b.h, b.attended, b.h, layer.output, self.batch, s.hidden, s.heads * s.head_size,
                   self.type, 0)

    def router(self, layer: Layer) -> None:
        b, s = self.buffers, self.shape
        self._call("router", b.normed, b.chosen, b.chosen_weights, b.counters, len(b.counters), b.h, layer.expert_norm,
                   layer.router, self.batch, s.hidden, s.experts, s.chosen, s.epsilon, self.type)

    def experts(self, layer: Layer) -> None:
        b, s = self.buffers, self.shape
        self._call("experts", b.y, b.activations, b.counters, b.normed, b.chosen, b.chosen_weights, layer.gate_up,
                   layer.down, self.batch, s.chosen, s.experts, s.hidden, s.inner, self.type)

    def add_norm(self, norm: torch.Tensor, chosen: int | None = None) -> None:
        b, s = self.buffers, self.shape
        self._call("add_norm", b.normed, b.h, b.h, b.y, norm, self.batch, s.chosen if chosen is None else chosen,
                   s.hidden, s.epsilon, self.type)

    def head(self, head: Head) -> None:
        b, s = self.buffers, self.shape
        if self.batch > STREAMED_TOKENS:
            torch.mm(b.normed, head.weights.T, out_dtype=torch.float32, out=b.logits)
            return
        self._call("product", b.logits, b.normed, None, head.weights, self.batch, s.vocabulary, s.hidden, self.type, 1)

    def top(self) -> None:
        """The most likely tokens, from the logits, and the next ones, as the draws say."""
        b, s = self.buffers, self.shape
        self._call("top_logits", b.best, b.ids, b.next_ids, b.found, b.logits, b.draws, self.batch, s.vocabulary,
                   b.best.shape[1])

    def _call(self, name: str, *arguments: torch.Tensor | float | None) -> None:
        addresses = (x.data_ptr() if isinstance(x, torch.Tensor) else x for x in arguments)
        self.kernels.call(name, *addresses, torch.cuda.current_stream().cuda_stream)
