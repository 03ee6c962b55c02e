"""The iterative head: stage after stage refines the boxes of the one before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detkit.geometry import DeltaBoxCoder
from detkit.layers import PyramidPooler

from .interaction import Interaction
from .stage import Stage

__all__ = ["IterativeHead", "StageOutputs"]


@dataclass(frozen=True)
class StageOutputs:
    """What the stages predict; S stages, B images, N proposals, K logits.

    Attributes:
        logits: (S, B, N, K), as the layers give them.
        boxes: (S, B, N, 4) float32 xyxy in pixels, not clipped.
        features: (S, B, N, C) object features.
        image_sizes: (B, 2) height and width in pixels, without padding.
    """

    logits: Tensor
    boxes: Tensor
    features: Tensor
    image_sizes: Tensor


class IterativeHead(nn.Module):
    """Pools RoIs at the current boxes, lets a stage refine them, and hands boxes and object features to the next stage.

    Boxes are detached between stages, so that only the first one moves the proposals (section 4, training details); features are not.
    Boxes and pooling stay in float32 under autocast.

    Args:
        stages: run one after the other.
        pooler: of the pyramid's levels.
        box_coder: what the stages' deltas mean.
    """

    def __init__(self, *, stages: Sequence[Stage], pooler: PyramidPooler, box_coder: DeltaBoxCoder) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.pooler = pooler
        self.box_coder = box_coder

    @property
    def uses_features(self) -> bool:
        """Whether the stages hand on object features and start from those of the proposals."""
        return any(module.uses_features for module in self.modules() if isinstance(module, Interaction))

    def forward(
        self, pyramid: Sequence[Tensor], boxes: Tensor, features: Tensor | None, image_sizes: Tensor, seen: Tensor | None = None
    ) -> StageOutputs:
        """Runs all stages.

        Args:
            pyramid: (B, C, H, W) of each level, from fine to coarse.
            boxes: (B, N, 4) proposals, xyxy in pixels; or (B * groups, N, 4), image by image, for several groups of proposals per image
                that do not attend to each other. Features and sizes are then given for each group, too.
            features: (B, N, C) of the proposals, or None where ``uses_features`` is false.
            image_sizes: (B, 2) height and width in pixels, without padding.
            seen: (B, N) bool, proposals that the others attend to; None: all.
        """
        pyramid = [level.float().contiguous() for level in pyramid]  # as RoIAlign reads them, once for all stages
        logits_of, boxes_of, features_of = [], [], []
        for stage in self.stages:
            rois = self.pooler(pyramid, boxes.detach().reshape(pyramid[0].shape[0], -1, 4))
            objects, logits, deltas = stage(features, rois, boxes, image_sizes, seen)
            refined = self.box_coder.apply(deltas.float(), boxes)
            logits_of.append(logits)
            boxes_of.append(refined)
            features_of.append(objects)
            boxes = refined.detach()
            features = objects if self.uses_features else None
        return StageOutputs(torch.stack(logits_of), torch.stack(boxes_of), torch.stack(features_of), image_sizes)
