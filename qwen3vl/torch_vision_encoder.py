"""The vision encoder in plain torch: patches of equal frames in, visual rows out.

Vision transformer over the patches of one frame, with learned positions (bilinearly interpolated from a square grid)
and 2-D rotary positions. Attention stays inside a frame, so frames of one grid are the batch dimension and no mask is
needed. Mergers turn blocks of spatial_merge_size x spatial_merge_size patches into one row of the decoder's hidden
size: one merger for the embedding (row 0), one for each DeepStack level.

Attribute names are those of the checkpoint below `model.visual.`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwen3vl.config import VisionConfig
from qwen3vl.rope import vision_frequencies

LAYER_NORM_EPS = 1e-6


class VisionEncoder(nn.Module):
    """Visual rows of frames.

    Args:
        image_mean, image_std: per channel, for pixels scaled to 0..1 (the checkpoint's preprocessor_config.json).
    """

    def __init__(self, config: VisionConfig, image_mean: tuple[float, ...] = (0.5, 0.5, 0.5),
                 image_std: tuple[float, ...] = (0.5, 0.5, 0.5)) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config, image_mean, image_std)
        self.pos_embed = nn.Embedding(config.num_position_embeddings, config.hidden_size)
        self.rotary = AxialRoPE(config)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = PatchMerger(config, norm_after_merge=False)
        self.deepstack_merger_list = nn.ModuleList(
            PatchMerger(config, norm_after_merge=True) for _ in config.deepstack_visual_indexes)

    def forward(self, patches: Tensor, patch_positions: Tensor, interp_indices: Tensor, interp_weights: Tensor,
                patch_mask: Tensor | None = None) -> Tensor:
        """Encode F frames of one grid; with a mask, of different grids, padded at their end to P patches.

        Args:
            patches: uint8 [F, P, patch_dim]; P patches a frame in merge-block order, each [channel, time, row, column].
            patch_positions: integer [P, 2] or [F, P, 2], row and column of each patch.
            interp_indices, interp_weights: [P, 4] or [F, P, 4], the four learned positions around each patch, and their
                shares.
            patch_mask: bool [F, P], False where a patch is padding; its rows mean nothing.

        Returns:
            [(1 + D) * F * P / merge_unit, out_hidden_size], the rows of one visual token next to each other: its
            embedding, then DeepStack levels 1..D.
        """
        hidden = self.patch_embed(patches)
        hidden = hidden + (self.pos_embed(interp_indices) * interp_weights[..., None]).sum(-2).to(hidden.dtype)
        cos, sin = self.rotary(patch_positions)
        mask = None if patch_mask is None else patch_mask[:, None, None, :]
        levels = []
        for index, block in enumerate(self.blocks):
            hidden = block(hidden, cos, sin, mask)
            if index in self.config.deepstack_visual_indexes:
                levels.append(self.deepstack_merger_list[len(levels)](hidden))
        return torch.stack([self.merger(hidden), *levels], dim=1).flatten(0, 1)


class PatchEmbedding(nn.Module):
    """Normalises uint8 pixels and projects each patch: the checkpoint's Conv3d, which sees each patch once."""

    def __init__(self, config: VisionConfig, image_mean: tuple[float, ...], image_std: tuple[float, ...]) -> None:
        super().__init__()
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.in_channels, config.hidden_size, kernel, stride=kernel)
        values_per_channel = config.patch_dim // config.in_channels
        mean, std = torch.tensor(image_mean), torch.tensor(image_std)
        # (x / 255 - mean) / std = x * scale + offset
        self.register_buffer("scale", (1 / (255 * std)).repeat_interleave(values_per_channel), persistent=False)
        self.register_buffer("offset", (-mean / std).repeat_interleave(values_per_channel), persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        """uint8 [..., patch_dim] -> [..., hidden_size]"""
        pixels = (patches.to(self.scale.dtype) * self.scale + self.offset).to(self.proj.weight.dtype)
        return F.linear(pixels, self.proj.weight.flatten(1), self.proj.bias)


class AxialRoPE(nn.Module):
    """2-D rotary positions: half of a head's pairs turn with the row, half with the column."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.from_numpy(vision_frequencies(config)), persistent=False)

    def forward(self, patch_positions: Tensor) -> tuple[Tensor, Tensor]:
        """[..., P, 2] -> cosine and sine, float32 [..., 1, P, head_dim], the 1 for the heads"""
        angles = (patch_positions[..., None].float() * self.frequencies.float()).flatten(-2)
        angles = torch.cat([angles, angles], dim=-1).unsqueeze(-3)
        return angles.cos(), angles.sin()


class VisionBlock(nn.Module):
    """Pre-norm transformer block with full attention inside a frame."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.attn = VisionAttention(config)
        self.mlp = VisionMLP(config)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        hidden = hidden + self.attn(self.norm1(hidden), cos, sin, mask)
        return hidden + self.mlp(self.norm2(hidden))


class VisionAttention(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """hidden [F, P, hidden_size]; cos, sin [..., 1, P, head_dim]; mask bool [F, 1, 1, P] or None"""
        query, key, value = self.qkv(hidden).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(rotate(query, cos, sin), rotate(key, cos, sin), value, attn_mask=mask)
        return self.proj(attended.transpose(1, 2).flatten(2))


class VisionMLP(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear_fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear_fc2(F.gelu(self.linear_fc1(hidden), approximate="tanh"))


class PatchMerger(nn.Module):
    """The patches of one merge block, adjacent in the sequence, become one row.

    The embedding's merger normalises each patch; DeepStack's mergers normalise the merged block.
    """

    def __init__(self, config: VisionConfig, norm_after_merge: bool) -> None:
        super().__init__()
        self.merged_size, self.norm_after_merge = config.merged_size, norm_after_merge
        self.norm = nn.LayerNorm(config.merged_size if norm_after_merge else config.hidden_size, eps=LAYER_NORM_EPS)
        self.linear_fc1 = nn.Linear(config.merged_size, config.merged_size)
        self.linear_fc2 = nn.Linear(config.merged_size, config.out_hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[F, P, hidden_size] -> [F * P / merge_unit, out_hidden_size]"""
        if not self.norm_after_merge:
            hidden = self.norm(hidden)
        merged = hidden.reshape(-1, self.merged_size)
        if self.norm_after_merge:
            merged = self.norm(merged)
        return self.linear_fc2(F.gelu(self.linear_fc1(merged)))


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: value i and value i + head_dim / 2 of a head turn by the same angle; computed in float32."""
    first, second = heads.float().chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (heads.float() * cos + turned * sin).to(heads.dtype)
