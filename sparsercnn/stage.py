"""One stage of the iterative head: proposals that have met their RoIs, their classes and refined boxes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .interaction import Interaction

__all__ = ["BoxEncoding", "FeedForward", "SelfAttention", "Stage"]


class SelfAttention(nn.Module):
    """Multi-head attention between the proposals of an image, added and normalized. Parameters are those of PyTorch's module."""

    def __init__(self, *, channels: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, num_heads, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor, seen: Tensor | None = None) -> Tensor:
        """(B, N, C) to (B, N, C).

        Args:
            seen: (B, N) bool, which of the N the others attend to, at least one of each B; None: all.
        """
        layers, heads = self.attention, self.attention.num_heads
        batch, count, channels = features.shape
        projected = F.linear(features, layers.in_proj_weight, layers.in_proj_bias)
        query, key, value = projected.view(batch, count, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, C / heads)
        dropout = layers.dropout if self.training else 0.0
        mask = None if seen is None else seen[:, None, None]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        attended = attended.transpose(1, 2).reshape(batch, count, channels)
        return self.norm(features + self.dropout(layers.out_proj(attended)))


class FeedForward(nn.Module):
    """Two layers with ReLU between, added and normalized (DETR's transformer)."""

    def __init__(self, *, channels: int, hidden_channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, hidden_channels)
        self.linear2 = nn.Linear(hidden_channels, channels)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return self.norm(features + self.dropout(self.linear2(self.dropout(self.linear1(features).relu()))))


class BoxEncoding(nn.Module):
    """A layer on the sines of a box's center and size: the positional encoding that does not help (table 10).

    Args:
        channels: of the encoding, a multiple of 8.
    """

    frequencies: Tensor

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(channels // 8), persistent=False)
        self.linear = nn.Linear(channels, channels)

    def forward(self, boxes: Tensor, image_sizes: Tensor) -> Tensor:
        """Encoding (B, N, C) of boxes (B, N, 4) xyxy in pixels, relative to the images (B, 2) height, width."""
        relative = boxes / image_sizes.flip(1).repeat(1, 2)[:, None]
        low, high = relative.chunk(2, dim=-1)
        angles = torch.cat([(low + high) / 2, high - low], dim=-1)[..., None] * self.frequencies  # (B, N, 4, C / 8)
        return self.linear(torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(2))


class Stage(nn.Module):
    """Self-attention, interaction with the RoIs, feed-forward layers, then one branch for classes and one for boxes.

    Linear layers start with Xavier's weights, except that the bias of the classes starts at the logit of ``prior_prob``.

    Args:
        channels: C of pyramid and proposal features.
        num_logits: K, or K + 1 with "no object".
        interaction: see :mod:`sparsercnn.interaction`.
        attention: between the proposals of an image; None for an interaction without features, and in table 5.
        encoding: of boxes, added to the features; None as published.
        ffn: feed-forward layers.
        num_cls_layers, num_box_layers: of linear layer, norm and ReLU in the branches.
        prior_prob: initial probability of every class; None: no prior, for the softmax variant.
        box_pred_gain: factor on the initial weights of the last layer of the box branch.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_logits: int,
        interaction: Interaction,
        ffn: nn.Module,
        attention: nn.Module | None = None,
        encoding: BoxEncoding | None = None,
        num_cls_layers: int = 1,
        num_box_layers: int = 3,
        prior_prob: float | None = 0.01,
        box_pred_gain: float = 1.0,
    ) -> None:
        super().__init__()
        if (attention or encoding) and not interaction.uses_features:
            raise ValueError(f"{type(interaction).__name__} has no proposal features for self-attention or an encoding to work on.")
        self.encoding = encoding
        self.attention = attention
        self.interaction = interaction
        self.ffn = ffn
        self.cls_tower = _branch(channels, num_cls_layers)
        self.cls_score = nn.Linear(channels, num_logits)
        self.box_tower = _branch(channels, num_box_layers)
        self.box_pred = nn.Linear(channels, 4)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        nn.init.xavier_uniform_(self.box_pred.weight, gain=box_pred_gain)
        if prior_prob is not None:
            nn.init.constant_(self.cls_score.bias, -math.log((1 - prior_prob) / prior_prob))

    def forward(
        self, features: Tensor | None, rois: Tensor, boxes: Tensor, image_sizes: Tensor, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Looks at the RoIs once.

        Args:
            features: (B, N, C) proposal features, or None.
            rois: (B * N, C, H, W) pooled features.
            boxes: (B, N, 4) xyxy in pixels, where they were pooled.
            image_sizes: (B, 2) height and width.
            seen: as in :class:`SelfAttention`.

        Returns:
            object features (B, N, C), logits (B, N, K), box deltas (B, N, 4).
        """
        batch, count = boxes.shape[:2]
        if features is not None:
            if self.encoding is not None:
                features = features + self.encoding(boxes, image_sizes)
            if self.attention is not None:
                features = self.attention(features, seen)
            features = features.flatten(0, 1)
        objects = self.ffn(self.interaction(features, rois.flatten(2).transpose(1, 2))).view(batch, count, -1)
        return objects, self.cls_score(self.cls_tower(objects)), self.box_pred(self.box_tower(objects))


def _branch(channels: int, num_layers: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        layers += [nn.Linear(channels, channels, bias=False), nn.LayerNorm(channels), nn.ReLU()]
    return nn.Sequential(*layers)
