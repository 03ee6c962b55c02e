"""The pyramid of HRNet's detectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn

from .pyramid import build_bottom_up

__all__ = ["HRFPN", "build_hrfpn_backbone"]


class HRFPN(Backbone):
    """Branches of all resolutions brought to the finest and mixed, then pooled to every level (Sun et al., arXiv:1904.04514, figure 4).

    Args:
        bottom_up: gives the branches.
        in_features: their names, from fine to coarse.
        out_channels: of every level.
        num_levels: of the pyramid.
        conv_stride: of the convolution behind each pooling: 1, the finest level has the stride of the finest branch (P2 to P6, as in
            HRNet's Faster R-CNN); 2, twice that (P3 to P7, as in its FCOS of five levels).
    """

    def __init__(
        self, *, bottom_up: Backbone, in_features: Sequence[str], out_channels: int, num_levels: int = 5, conv_stride: int = 2
    ) -> None:
        super().__init__()
        shapes = bottom_up.output_shape()
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        self.reduction = nn.Conv2d(sum(shapes[name].channels for name in in_features), out_channels, 1)
        self.outputs = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, conv_stride, padding=1) for _ in range(num_levels))
        for conv in (self.reduction, *self.outputs):
            c2_xavier_fill(conv)
        finest = shapes[in_features[0]].stride
        strides = [finest * conv_stride * 2**level for level in range(num_levels)]
        self._out_features = [f"p{stride.bit_length() - 1}" for stride in strides]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility = max(finest * 2 ** (num_levels - 1), shapes[in_features[-1]].stride)

    @property
    def size_divisibility(self) -> int:
        """So that every branch and pooling has whole cells."""
        return self._size_divisibility

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Levels (N, out_channels, H, W) of normalized images (N, 3, H, W), from fine to coarse."""
        branches = self.bottom_up(x)
        size = branches[self.in_features[0]].shape[-2:]
        finest = [F.interpolate(branches[name], size=size, mode="bilinear", align_corners=False) for name in self.in_features]
        mixed = self.reduction(torch.cat(finest, dim=1))
        levels = {}
        for level, (name, conv) in enumerate(zip(self._out_features, self.outputs, strict=True)):
            levels[name] = conv(F.avg_pool2d(mixed, 2**level) if level else mixed)
        return levels


@BACKBONE_REGISTRY.register()
def build_hrfpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> HRFPN:
    """HRFPN on the backbone ``MODEL.FPN.BOTTOM_UP``, for the branches that ``MODEL.FPN.IN_FEATURES`` names.

    Raises:
        ConfigError: as :func:`detkit.backbones.build_fpn_backbone`.
    """
    node = cfg.MODEL.FPN
    return HRFPN(
        bottom_up=build_bottom_up(cfg, input_shape),
        in_features=node.IN_FEATURES,
        out_channels=node.OUT_CHANNELS,
        conv_stride=node.HRFPN_STRIDE,
    )
