"""The decoder of `transformers` with a static cache, eager or compiled, at the shapes of Qwen3-VL-30B-A3B: wall times.

    python -m bench.decoder_cuda.peer_transformers --layers 4 --experts grouped_mm --compile --output out.json

Random weights in bf16, few layers, the whole output projection. A step is one token of each sequence, from token ids to
the most likely next ones on the host; a prompt is one sequence, its last token's choice alone. Steps are compiled, for
each batch by itself and with CUDA graphs, prompts never: `transformers` itself does not compile these.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import StaticCache
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextModel

from bench.decoder_cuda.peer_figures import median_milliseconds, parser, write_figures
from bench.synthetic_checkpoint import config_30b_a3b, narrowed

EXPERTS = ("grouped_mm", "batched_mm")


class Decoder:
    """Text model and output projection.

    Args:
        compiled: whether steps are.
    """

    def __init__(self, layers: int, experts: str, *, compiled: bool, device: str, small: bool):
        whole = config_30b_a3b(layers=layers, vision_depth=5)
        self.config = config = (narrowed(whole) if small else whole).text_config
        self.device = device
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        with torch.device(device):
            self.model = Qwen3VLMoeTextModel._from_config(config, attn_implementation="sdpa", dtype=dtype,
                                                          experts_implementation=experts).eval()
            self.head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False, dtype=dtype)
        self._step = torch.compile(self._next, mode="reduce-overhead", dynamic=False) if compiled else self._next

    def _next(self, ids: torch.Tensor, positions: torch.Tensor, cache: StaticCache) -> torch.Tensor:
        hidden = self.model(input_ids=ids, position_ids=positions, past_key_values=cache,
                            use_cache=True).last_hidden_state
        return self.head(hidden[:, -1]).float().argmax(-1)

    def _cache(self, batch: int, length: int, held: int) -> StaticCache:
        """Of random tokens, `held` of them."""
        text, cache = self.config, StaticCache(config=self.config, max_cache_len=length)
        cache.early_initialization(batch, text.num_key_value_heads, text.head_dim, self.head.weight.dtype,
                                   torch.device(self.device))
        for layer in cache.layers:
            layer.keys.normal_()
            layer.values.normal_()
        self._hold(cache, held)
        return cache

    @staticmethod
    def _hold(cache: StaticCache, held: int) -> None:
        for layer in cache.layers:
            layer.cumulative_length.fill_(held)

    @torch.no_grad()
    def step_milliseconds(self, batch: int, past: int, repeats: int) -> float:
        torch._dynamo.reset()  # a graph for each batch, and only one
        cache = self._cache(batch, past + 16, past)
        ids = torch.randint(self.config.vocab_size, (batch, 1), device=self.device)
        positions = torch.full((3, batch, 1), past, device=self.device)
        return self._median(lambda: self._step(ids, positions, cache).cpu(), cache, past, repeats)

    @torch.no_grad()
    def prompt_milliseconds(self, tokens: int, repeats: int) -> float:
        cache = self._cache(1, tokens, 0)
        ids = torch.randint(self.config.vocab_size, (1, tokens), device=self.device)
        positions = torch.arange(tokens, device=self.device).expand(3, 1, tokens)
        return self._median(lambda: self._next(ids, positions, cache).cpu(), cache, 0, repeats)

    def _median(self, run: Callable[[], object], cache: StaticCache, held: int, repeats: int) -> float:
        def before() -> None:
            self._hold(cache, held)
            if self.device == "cuda":
                torch.cuda.synchronize()

        return median_milliseconds(run, repeats, before)


def main(argv: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--experts", choices=EXPERTS, default="grouped_mm", help="how `transformers` computes them")
    options.add_argument("--compile", action="store_true")
    options.add_argument("--small", action="store_true", help="narrow, to try it")
    args = options.parse_args(argv)
    torch.manual_seed(0)
    decoder = Decoder(args.layers, args.experts, compiled=args.compile, device=args.device, small=args.small)
    write_figures(args, lambda batch: decoder.step_milliseconds(batch, args.past, args.repeats),
                  lambda tokens: decoder.prompt_milliseconds(tokens, args.repeats))


if __name__ == "__main__":
    main()
