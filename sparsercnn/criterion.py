"""The set prediction loss of every stage (Sparse R-CNN, section 3; DETR, section 3.1)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkit.distributed import reduce_mean
from detkit.losses import focal_loss_from_labels, giou_loss
from detkit.structures import GroundTruth

from .head import StageOutputs

__all__ = ["FocalClassLoss", "SetCriterion", "SoftmaxClassLoss"]


class FocalClassLoss(nn.Module):
    """Focal loss of sigmoids, summed over proposals and divided by the number of objects."""

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(self, logits: Tensor, labels: Tensor, num_objects: Tensor) -> Tensor:
        """Losses (S,) of logits (S, B, N, K), labels (S, B, N), K for no object, and numbers of objects (S,)."""
        losses = focal_loss_from_labels(logits, labels, alpha=self.alpha, gamma=self.gamma, per_row=True)
        return losses.sum((1, 2)) / num_objects


class SoftmaxClassLoss(nn.Module):
    """Cross entropy with a class "no object" of less weight, a weighted mean over proposals: not divided by the number of objects."""

    weights: Tensor

    def __init__(self, *, num_classes: int, no_object_weight: float = 0.1) -> None:
        super().__init__()
        weights = torch.ones(num_classes + 1)
        weights[-1] = no_object_weight
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor, num_objects: Tensor) -> Tensor:
        """Losses (S,) of logits (S, B, N, K + 1), labels (S, B, N), K for no object, and numbers of objects (S,)."""
        losses = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), self.weights, reduction="none").view_as(labels)
        return losses.sum((1, 2)) / self.weights[labels].sum((1, 2))


class SetCriterion(nn.Module):
    """Classes of all proposals; L1 distance and generalized IoU of the matched boxes; the same for every stage.

    Everything is computed in float32 on all proposals and masked, so that shapes do not depend on the objects. An image or batch without
    objects gives box losses of zero and a class loss that teaches background.

    Args:
        num_classes: K.
        class_loss: :class:`FocalClassLoss` or :class:`SoftmaxClassLoss`.
        class_weight, l1_weight, giou_weight: factors of the terms.
        normalizer: what the losses are divided by, as a mean over workers and at least 1: ``"objects"``, the number of objects in the
            batch (the official code), or ``"matches"``, the number of proposals that have one (mmdetection). They differ where an image
            has more objects than there are proposals. Where a stage matches an object more than once, both are the number of matches.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        class_loss: nn.Module,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        normalizer: Literal["objects", "matches"] = "objects",
    ) -> None:
        super().__init__()
        if normalizer not in ("objects", "matches"):
            raise ValueError(f"normalizer must be 'objects' or 'matches', not '{normalizer}'.")
        self.num_classes = num_classes
        self.class_loss = class_loss
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.normalizer = normalizer

    def forward(self, outputs: StageOutputs, assignments: Tensor, gt: GroundTruth) -> dict[str, Tensor]:
        """The losses of all stages.

        Args:
            assignments: (S, B, N) int64, the object of each proposal at each stage, -1 for none.

        Returns:
            scalars ``loss_cls``, ``loss_l1``, ``loss_giou`` of the last stage and ``loss_cls_stage0`` and so on of those before.
        """
        with torch.autocast(outputs.logits.device.type, enabled=False):
            counts = (assignments >= 0).sum((1, 2))
            if self.normalizer == "objects":
                counts = counts.maximum(gt.valid.sum())
            num_objects = _on_average(counts)
            labels, targets = self._targets(assignments, gt)
            terms = {"cls": self.class_weight * self.class_loss(outputs.logits.float(), labels, num_objects)}
            terms |= self._of_boxes(outputs, assignments >= 0, targets, num_objects)
        last = len(assignments) - 1
        suffixes = [f"_stage{stage}" if stage < last else "" for stage in range(len(assignments))]
        per_stage = {name: values.unbind(0) for name, values in terms.items()}
        return {f"loss_{name}{suffix}": per_stage[name][stage] for stage, suffix in enumerate(suffixes) for name in terms}

    def of_boxes(self, outputs: StageOutputs, assignments: Tensor, gt: GroundTruth) -> dict[str, Tensor]:
        """The terms ``l1`` and ``giou`` alone, (S,) each, divided by the number of assigned proposals; arguments as of a call."""
        with torch.autocast(outputs.logits.device.type, enabled=False):
            matched = assignments >= 0
            return self._of_boxes(outputs, matched, self._targets(assignments, gt)[1], _on_average(matched.sum((1, 2))))

    def _of_boxes(self, outputs: StageOutputs, matched: Tensor, targets: Tensor, num_objects: Tensor) -> dict[str, Tensor]:
        """The terms of all stages at once, (S,) each."""
        pred = torch.where(matched[..., None], outputs.boxes, targets)
        scale = outputs.image_sizes.flip(1).repeat(1, 2)[:, None]  # (B, 1, 4): width, height, width, height
        distances = ((pred - targets) / scale).abs().sum((1, 2, 3))
        overlaps = (giou_loss(pred, targets) * matched).sum((1, 2))
        return {"l1": self.l1_weight * distances / num_objects, "giou": self.giou_weight * overlaps / num_objects}

    def _targets(self, assignments: Tensor, gt: GroundTruth) -> tuple[Tensor, Tensor]:
        """Class (S, B, N), K for none, and box (S, B, N, 4), the unit square for none, of each proposal."""
        unit = (torch.arange(4, device=gt.boxes.device) // 2).float()  # 0, 0, 1, 1, made where it is needed
        if gt.boxes.shape[1] == 0:
            return torch.full_like(assignments, self.num_classes), unit.expand(*assignments.shape, 4)
        index = assignments.clamp(min=0)
        labels = torch.where(assignments >= 0, gt.classes.expand(len(index), -1, -1).gather(2, index), self.num_classes)
        boxes = gt.boxes.expand(len(index), -1, -1, -1).gather(2, index[..., None].expand(-1, -1, -1, 4))
        return labels, torch.where((assignments >= 0)[..., None], boxes, unit)


def _on_average(counts: Tensor) -> Tensor:
    """The mean of counts (S,) over workers, at least 1."""
    return reduce_mean(counts.float()).clamp(min=1)
