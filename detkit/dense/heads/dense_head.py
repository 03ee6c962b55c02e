"""The head of FCOS and ATSS: two towers, classes, boxes and a quality branch."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal

from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d
from torch import Tensor, nn

from detkit.layers import Scale, conv_tower, init_conv
from detkit.structures import DenseOutputs

from .registry import DENSE_HEAD_REGISTRY

__all__ = ["DenseHead"]


@DENSE_HEAD_REGISTRY.register()
class DenseHead(nn.Module):
    """Classes, boxes and quality from two towers that all pyramid levels share (FCOS, section 3.2 and figure 2).

    Args:
        in_channels: width of the pyramid.
        num_classes: K, without a background class.
        num_levels: of the pyramid.
        num_anchors: A, anchors per location (1 for FCOS and ATSS).
        channels, num_convs, norm, tower_bias: of the towers, see :func:`detkit.layers.conv_tower`.
        num_shared_convs: convolutions of a tower before both (AdelaiDet's real-time FCOS with shared towers: 4, and ``num_convs`` 0).
        dcn_on_last_conv: the last convolution of each tower is deformable (the "DCN" models of FCOS and ATSS).
        quality: where the centerness branch sits: ``"cls"`` (FCOS as published), ``"box"`` (improved FCOS, ATSS) or ``"none"``.
        scales: one learnable factor per level on the regression.
        prior_prob: initial class probability (focal loss, section 3.3).
        box_bias: initial bias of the regression.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        num_levels: int,
        num_anchors: int = 1,
        channels: int = 256,
        num_convs: int = 4,
        num_shared_convs: int = 0,
        norm: str = "GN",
        tower_bias: bool = True,
        dcn_on_last_conv: bool = False,
        quality: Literal["cls", "box", "none"] = "box",
        scales: bool = True,
        prior_prob: float = 0.01,
        box_bias: float = 0.0,
    ) -> None:
        super().__init__()
        if quality not in ("cls", "box", "none"):
            raise ValueError(f"The quality branch sits on 'cls', on 'box' or is 'none', not '{quality}'.")
        self.num_classes = num_classes
        self.quality_on = quality
        tower = partial(conv_tower, norm=norm, bias=tower_bias, num_levels=num_levels)
        self.shared_tower = tower(in_channels, channels, num_convs=num_shared_convs)
        width = channels if num_shared_convs else in_channels
        self.cls_tower = tower(width, channels, num_convs=num_convs, num_deformable=int(dcn_on_last_conv))
        self.box_tower = tower(width, channels, num_convs=num_convs, num_deformable=int(dcn_on_last_conv))
        width = channels if num_convs else width
        self.cls_score = Conv2d(width, num_anchors * num_classes, kernel_size=3, padding=1)
        self.box_pred = Conv2d(width, num_anchors * 4, kernel_size=3, padding=1)
        self.quality = Conv2d(width, num_anchors, kernel_size=3, padding=1) if quality != "none" else None
        self.scales = nn.ModuleList(Scale() if scales else nn.Identity() for _ in range(num_levels))
        init_conv(self.cls_score, bias=-math.log((1 - prior_prob) / prior_prob))
        init_conv(self.box_pred, bias=box_bias)
        if self.quality is not None:
            init_conv(self.quality)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """From the keys of a detector, ``cfg.MODEL.FCOS`` or another; what follows from the pyramid is handed over beside them.

        Raises:
            ValueError: a key that only :class:`detkit.dense.heads.TOODHead` heeds.
        """
        if cfg.HEAD.DCN_ON_FIRST_CONVS:
            raise ValueError("HEAD.DCN_ON_FIRST_CONVS belongs to TOODHead: set HEAD.DCN_ON_LAST_CONV here.")
        return {
            "num_classes": cfg.NUM_CLASSES,
            "channels": cfg.HEAD.CHANNELS,
            "num_convs": cfg.HEAD.NUM_CONVS,
            "num_shared_convs": cfg.HEAD.NUM_SHARED_CONVS,
            "norm": cfg.HEAD.NORM,
            "tower_bias": cfg.HEAD.TOWER_BIAS,
            "dcn_on_last_conv": cfg.HEAD.DCN_ON_LAST_CONV,
            "quality": cfg.HEAD.QUALITY,
            "scales": cfg.HEAD.SCALES,
            "prior_prob": cfg.HEAD.PRIOR_PROB,
            "box_bias": cfg.HEAD.BOX_BIAS,
        }

    def forward(self, features: list[Tensor]) -> DenseOutputs:
        """Raw outputs of features (B, C, H, W), one per level from fine to coarse."""
        logits, boxes, quality = [], [], []
        for level, (feature, scale) in enumerate(zip(features, self.scales, strict=True)):
            feature = self.shared_tower(feature, level)
            cls_feature = self.cls_tower(feature, level)
            box_feature = self.box_tower(feature, level)
            logits.append(self.cls_score(cls_feature))
            boxes.append(self.regress(box_feature, scale))
            if self.quality is not None:
                quality.append(self.quality(cls_feature if self.quality_on == "cls" else box_feature))
        return DenseOutputs(logits, boxes, quality if self.quality is not None else None)

    def regress(self, feature: Tensor, scale: nn.Module) -> Tensor:
        """Raw boxes (B, A*4, H, W) of a level from what its box tower gives; ``scale`` is the level's factor."""
        return scale(self.box_pred(feature))
