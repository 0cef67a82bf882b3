"""Modules, parameters and the layers of the Qwen decoder, each GPU's share of them."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from tests.engines.trtllm.stand_in.network import default_net
from tests.engines.trtllm.stand_in.tensorrt import DataType
from tests.engines.trtllm.stand_in.tensors import NAMES, NetworkError, Tensor, made

CONTEXT, GENERATION = 0, 1  # host_request_types
SOFTMAX_OVER_CHOSEN = 1


class Parameter:
    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype, self._value = tuple(shape), dtype, None

    @property
    def value(self) -> Tensor:
        assert self._value is not None, "a parameter without weights is used"
        return made(self._value, NAMES[self.dtype])

    @value.setter
    def value(self, value: torch.Tensor) -> None:
        assert tuple(value.shape) == self.shape, f"parameter of shape {self.shape} is given {tuple(value.shape)}"
        assert str(value.dtype) == f"torch.{self.dtype}", f"parameter of type {self.dtype} is given {value.dtype}"
        self._value = value.float()


class Module:
    def __call__(self, *args, **kwargs):
        default_net()  # as in the real library, modules are called only while a network is defined
        return self.forward(*args, **kwargs)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        yield from ((name, child) for name, child in vars(self).items() if isinstance(child, Module))

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        yield from ((f"{prefix}{name}", value) for name, value in vars(self).items() if isinstance(value, Parameter))
        for name, child in self.named_children():
            yield from child.named_parameters(f"{prefix}{name}.")


class ModuleList(Module):
    def __init__(self, modules: list[Module]) -> None:
        for index, module in enumerate(modules):
            setattr(self, str(index), module)

    def __iter__(self) -> Iterator[Module]:
        return (child for _, child in self.named_children())


class Embedding(Module):
    def __init__(self, num_embeddings: int, embedding_dim: int, dtype: str) -> None:
        self.num_embeddings, self.dtype = num_embeddings, dtype
        self.weight = Parameter((num_embeddings, embedding_dim), dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        return made(F.embedding(tokens.value.long(), self.weight.value.value), NAMES[self.dtype])


class PromptTuningEmbedding(Embedding):
    """What takes the place of `Embedding` where there is a prompt table."""

    def forward(self, tokens: Tensor, table: Tensor, tasks: Tensor, task_vocab_size: Tensor) -> Tensor:
        if table.dtype is not NAMES[self.dtype]:
            raise NetworkError(f"select between {table.dtype} and {self.dtype} in a strongly typed network")
        ids, out = tokens.value.long(), []
        for token, task in zip(ids.tolist(), tasks.value.expand(ids.shape).tolist(), strict=True):
            beyond = token - self.num_embeddings
            out.append(self.weight.value.value[token] if beyond < 0
                       else table.value[beyond + task * int(task_vocab_size.value)])
        return made(torch.stack(out), table.dtype)


class RmsNorm(Module):
    def __init__(self, normalized_shape: int, eps: float = 1e-6, dtype: str | None = None) -> None:
        self.eps, self.dtype = eps, dtype
        self.weight = Parameter((normalized_shape,), dtype)

    def forward(self, x: Tensor) -> Tensor:
        return made(self.normalise(x.value), x.dtype)

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        return x * (x.pow(2).mean(dim=-1, keepdim=True) + self.eps).rsqrt() * self.weight.value.value


class ColumnLinear(Module):
    """A rank has a share of the outputs; `gather_output` gives all of them to every rank."""

    def __init__(self, in_features: int, out_features: int, dtype: str, mapping, gather_output: bool) -> None:
        self.mapping, self.gather_output = mapping, gather_output
        self.weight = Parameter((out_features // mapping.tp_size, in_features), dtype)

    def forward(self, x: Tensor) -> Tensor:
        out = F.linear(x.value, self.weight.value.value)
        return made(torch.cat(gathered(self.mapping, out), dim=-1) if self.gather_output else out, x.dtype)


class RowLinear(Module):
    """A rank has a share of the inputs; the outputs are summed over the ranks."""

    def __init__(self, in_features: int, out_features: int, dtype: str, mapping) -> None:
        self.mapping = mapping
        self.weight = Parameter((out_features, in_features // mapping.tp_size), dtype)

    def forward(self, x: Tensor) -> Tensor:
        return made(sum(gathered(self.mapping, F.linear(x.value, self.weight.value.value))), x.dtype)


def gathered(mapping, value: torch.Tensor) -> list[torch.Tensor]:
    """The value of each rank of the tensor-parallel group; while an engine is built there is only this one."""
    communicator = default_net().communicator
    if communicator is None:
        return [value] * mapping.tp_size
    return communicator.gather(mapping.tp_group, mapping.rank, value)


class Attention(Module):
    """Queries and keys are normalised with `eps`, rotated by each request's table, and attend to its cache."""

    def __init__(self, config, local_layer_idx: int, eps: float = 1e-5) -> None:
        mapping, head = config.mapping, config.head_size
        self.config, self.local_layer_idx = config, local_layer_idx
        self.heads = config.num_attention_heads // mapping.tp_size
        self.kv_heads = -(-config.num_key_value_heads // mapping.tp_size)
        width = mapping.tp_size * (self.heads + 2 * self.kv_heads) * head
        self.qkv = ColumnLinear(config.hidden_size, width, config.dtype, mapping, gather_output=False)
        self.dense = RowLinear(config.num_attention_heads * head, config.hidden_size, config.dtype, mapping)
        self.q_layernorm, self.k_layernorm = (RmsNorm(head, eps=eps, dtype=config.dtype) for _ in range(2))

    def forward(self, hidden: Tensor, attention_params, mrope_params) -> tuple[Tensor, None]:
        if mrope_params is None:
            raise NetworkError("the engine has no M-RoPE inputs")
        packed = self.qkv(hidden).value.unflatten(-1, (-1, self.config.head_size))
        attended, start = [], 0
        for place, request in enumerate(default_net().requests):
            params = request_params(attention_params, place)
            of_request = packed[start : start + params.tokens]
            attended.append(self._attend(request, of_request, params, mrope_params, place))
            start += params.tokens
        if start != len(packed):
            raise NetworkError(f"requests have {start} tokens, but there are {len(packed)}")
        return self.dense(made(torch.cat(attended).flatten(1), hidden.dtype)), None

    def _attend(self, request: object, packed: torch.Tensor, params, mrope_params, place: int) -> torch.Tensor:
        query, key, value = packed.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        cos_sin = self._cos_sin(params, mrope_params, place)
        query = rotate(self.q_layernorm.normalise(query), cos_sin)
        key = rotate(self.k_layernorm.normalise(key), cos_sin)
        caches, entry = default_net().caches, (request, self.local_layer_idx)
        if params.past:
            key, value = (torch.cat([old, new]) for old, new in zip(caches[entry], (key, value), strict=True))
        assert len(key) == params.past + params.tokens
        caches[entry] = (key, value)
        mask = torch.arange(len(key)) <= params.past + torch.arange(params.tokens)[:, None]
        return F.scaled_dot_product_attention(*(part.transpose(0, 1) for part in (query, key, value)), attn_mask=mask,
                                              enable_gqa=True).transpose(0, 1)

    def _cos_sin(self, params, mrope_params, place: int) -> torch.Tensor:
        """[tokens, dim / 2, 2]: of a prompt, rows of the request's table; afterwards the plain rotation of one axis."""
        positions, dim = params.past + torch.arange(params.tokens), self.config.rotary_embedding_dim
        if params.type == CONTEXT:
            return mrope_params.mrope_rotary_cos_sin.value[place].view(-1, dim // 2, 2)[positions]
        positions = positions + mrope_params.mrope_position_deltas.value[place]
        angles = positions[:, None].double() * self.config.rotary_base ** (-torch.arange(0, dim, 2).double() / dim)
        return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


def request_params(attention_params, place: int) -> SimpleNamespace:
    """Kind, new tokens and tokens before them of one request."""
    kind = int(attention_params.host_request_types.value[place])
    tokens = int(attention_params.host_context_lengths.value[place]) if kind == CONTEXT else 1
    return SimpleNamespace(type=kind, tokens=tokens, past=int(attention_params.sequence_length.value[place]) - tokens)


def rotate(x: torch.Tensor, cos_sin: torch.Tensor) -> torch.Tensor:
    """x [tokens, heads, dim]; the two halves of a head are one number's parts."""
    cos, sin = cos_sin[:, None, :, 0], cos_sin[:, None, :, 1]
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class _Experts(Module):
    def __init__(self, shape: tuple[int, int, int], dtype: str) -> None:
        self.weight = Parameter(shape, dtype)


class _Router(Module):
    def __init__(self, hidden: int, experts: int) -> None:
        self.weight = Parameter((experts, hidden), "float32")


class MOE(Module):
    """A rank has a share of its experts; the outputs are summed over the ranks."""

    def __init__(self, config) -> None:
        mapping, experts = config.mapping, config.moe["num_experts"] // config.mapping.moe_ep_size
        inner = config.moe_intermediate_size // mapping.moe_tp_size
        self.config = config
        self.router = _Router(config.hidden_size, config.moe["num_experts"])
        self.fc = _Experts((experts, 2 * inner, config.hidden_size), config.dtype)
        self.proj = _Experts((experts, config.hidden_size, inner), config.dtype)

    def forward(self, hidden: Tensor) -> Tensor:
        x, moe = hidden.value, self.config.moe
        scores = F.linear(x, self.router.weight.value.value)
        if moe["normalization_mode"] == SOFTMAX_OVER_CHOSEN:
            chosen_scores, chosen = scores.topk(moe["top_k"])
            shares = chosen_scores.softmax(dim=-1)
        else:
            shares, chosen = scores.softmax(dim=-1).topk(moe["top_k"])
        out = torch.zeros_like(x)
        fc, proj = self.fc.weight.value.value, self.proj.weight.value.value
        for local in range(len(fc)):
            number = self.config.mapping.moe_ep_rank * len(fc) + local
            share = (shares * (chosen == number)).sum(dim=-1, keepdim=True)
            up, gate = F.linear(x, fc[local]).chunk(2, dim=-1)
            out += share * F.linear(F.silu(gate) * up, proj[local])
        return made(sum(gathered(self.config.mapping, out)), hidden.dtype)


def dtype_of(name: str) -> DataType:
    return NAMES[name]
