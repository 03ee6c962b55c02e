"""The head of FCOS and ATSS: two towers, classes, boxes and a quality branch."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar, Literal

from detectron2.layers import Conv2d
from torch import Tensor, nn

from detkit.config import Section
from detkit.layers import Scale, Tower, init_conv
from detkit.structures import DenseOutputs

from .registry import DENSE_HEAD_REGISTRY

__all__ = ["DenseHead"]


@DENSE_HEAD_REGISTRY.register()
class DenseHead(nn.Module):
    """Classes, boxes and quality from two towers that all pyramid levels share (FCOS, section 3.2 and figure 2).

    Args:
        num_classes: K, without a background class.
        in_channels: width of the pyramid.
        num_levels: of the pyramid.
        num_anchors: A, anchors per location (1 for FCOS and ATSS).
        tower: of which there are two, one for the classes and one for the boxes.
        shared_tower: before both (AdelaiDet's real-time FCOS with shared towers); None: the towers start from the pyramid.
        quality: where the centerness branch sits: ``"cls"`` (FCOS as published), ``"box"`` (improved FCOS, ATSS) or ``"none"``.
        scales: one learnable factor per level on the regression.
        prior_prob: initial class probability (focal loss, section 3.3).
        box_bias: initial bias of the regression.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        num_levels: int,
        tower: Tower,
        shared_tower: Tower | None = None,
        num_anchors: int = 1,
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
        shared_tower = shared_tower or Tower(num_convs=0)
        self.shared_tower = shared_tower.build(in_channels, num_levels)
        width = shared_tower.out_channels(in_channels)
        self.cls_tower = tower.build(width, num_levels)
        self.box_tower = tower.build(width, num_levels)
        width = tower.out_channels(width)
        self.cls_score = Conv2d(width, num_anchors * num_classes, kernel_size=3, padding=1)
        self.box_pred = Conv2d(width, num_anchors * 4, kernel_size=3, padding=1)
        self.quality = Conv2d(width, num_anchors, kernel_size=3, padding=1) if quality != "none" else None
        self.scales = nn.ModuleList(Scale() if scales else nn.Identity() for _ in range(num_levels))
        init_conv(self.cls_score, bias=-math.log((1 - prior_prob) / prior_prob))
        init_conv(self.box_pred, bias=box_bias)
        if self.quality is not None:
            init_conv(self.quality)

    #: whether its quality learns as a factor of the class probability alone, by ``LOSS.CRITERION: "weighted"``
    needs_weighted_loss: ClassVar[bool] = False
    #: keys of other heads, which have to keep their defaults
    unread_keys: ClassVar[tuple[str, ...]] = ("HEAD.COARSE_BOX", "HEAD.DCN_ON_FIRST_CONVS", "HEAD.FILTER_SIZE", "HEAD.FILTER_LEVELS")

    @classmethod
    def from_config(cls, node: Section) -> dict[str, Any]:
        """From the section of a detector.

        Raises:
            ConfigError: a key that only heads of another kind read.
        """
        node.refuse_unread(cls.unread_keys, cls.__name__)
        tower = partial(Tower, channels=node.HEAD.CHANNELS, norm=node.HEAD.NORM, bias=node.HEAD.TOWER_BIAS)
        last = node.HEAD.NUM_CONVS - 1
        return {
            "tower": tower(num_convs=node.HEAD.NUM_CONVS, deformable=[last] if node.HEAD.DCN_ON_LAST_CONV else []),
            "shared_tower": tower(num_convs=node.HEAD.NUM_SHARED_CONVS),
            "quality": node.HEAD.QUALITY,
            "scales": node.HEAD.SCALES,
            "prior_prob": node.HEAD.PRIOR_PROB,
            "box_bias": node.HEAD.BOX_BIAS,
        }

    def forward(self, features: list[Tensor]) -> DenseOutputs:
        """Raw outputs of features (B, C, H, W), one per level from fine to coarse."""
        logits, boxes, quality = [], [], []
        for level, (feature, scale) in enumerate(zip(features, self.scales, strict=True)):
            shared = self.shared_tower(feature, level)
            cls_feature = self.cls_tower(shared, level)
            box_feature = self.box_tower(shared, level)
            logits.append(self.cls_score(cls_feature))
            boxes.append(self.regress(box_feature, scale))
            if self.quality is not None:
                quality.append(cls_feature if self.quality_on == "cls" else box_feature)
        return DenseOutputs(logits, boxes, None if self.quality is None else self.qualities(quality))

    def qualities(self, features: list[Tensor]) -> list[Tensor]:
        """Quality (B, A, H, W) of every level from what the tower that carries the branch gives."""
        assert self.quality is not None
        return [self.quality(feature) for feature in features]

    def regress(self, feature: Tensor, scale: nn.Module) -> Tensor:
        """Raw boxes (B, A*4, H, W) of a level from what its box tower gives; ``scale`` is the level's factor."""
        return scale(self.box_pred(feature))
