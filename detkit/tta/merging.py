"""How detections of several scales of an image become one set.

Every way of merging says which detections remain and how their coordinates are mixed from those of all, so that whatever a detection
carries (contours, keypoints, masks) merges with its box. Detections of different classes are never merged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from detkit.geometry import elementwise_iou

__all__ = ["MERGE_RULES", "BoxVoting", "MergeRule", "Merged", "NonMaximumSuppression", "SoftVoting", "merge_per_class"]

#: IoU values computed at once: 16 MiB of float32
_IOU_BLOCK = 2**22


@dataclass(frozen=True)
class Merged:
    """What remains of N detections: M of them, whose coordinates are weighted means.

    Attributes:
        source: (M,) the detection that each stands for, in [0, N). Its class, and what cannot be averaged, are kept.
        scores: (M,) in [0, 1].
        rows, members: (E,) detection ``members[e]`` contributes to the coordinates of ``rows[e]``, in [0, M).
        weights: (E,) its share; those of a row sum to 1.
    """

    source: Tensor
    scores: Tensor
    rows: Tensor
    members: Tensor
    weights: Tensor

    def average(self, values: Tensor) -> Tensor:
        """Coordinates (M, ...) from those of all detections (N, ...)."""
        shares = self.weights.to(values.dtype).view(-1, *[1] * (values.dim() - 1))
        return values.new_zeros(len(self.source), *values.shape[1:]).index_add_(0, self.rows, shares * values[self.members])

    def best(self, count: int) -> Merged:
        """The ``count`` highest scores, highest first; equal ones in the order of the detections."""
        order = self.source.argsort()
        order = order[self.scores[order].argsort(descending=True, stable=True)][:count]
        place = torch.full_like(self.source, -1)
        place[order] = torch.arange(len(order), device=order.device)
        kept = place[self.rows] >= 0
        return Merged(self.source[order], self.scores[order], place[self.rows[kept]], self.members[kept], self.weights[kept])


class MergeRule(ABC):
    """A way of merging detections of one class.

    Args:
        threshold: IoU in (0, 1] above which two detections are of the same object. With 1 nothing is merged.
    """

    def __init__(self, *, threshold: float) -> None:
        self.threshold = threshold

    @abstractmethod
    def __call__(self, boxes: Tensor, scores: Tensor) -> Merged:
        """Merges boxes (N, 4), xyxy in pixels of the original image, with scores (N,)."""


class NonMaximumSuppression(MergeRule):
    """The best detection of an object remains as it is."""

    def __call__(self, boxes: Tensor, scores: Tensor) -> Merged:
        heads = nms(boxes, scores, self.threshold)
        return Merged(heads, scores[heads], torch.arange(len(heads), device=heads.device), heads, torch.ones_like(scores[heads]))


class BoxVoting(MergeRule):
    """The best detection of an object keeps its score and takes the mean of all their coordinates, weighted by score.

    Source: Gidaris and Komodakis, "Object detection via a multi-region and semantic segmentation-aware CNN model", section 3.4; without
    soft voting also in sfzhang15/ATSS.
    """

    def __call__(self, boxes: Tensor, scores: Tensor) -> Merged:
        heads, cluster = _clusters(boxes, scores, self.threshold)
        votes = scores.clamp(min=torch.finfo(scores.dtype).tiny)
        totals = votes.new_zeros(len(heads)).index_add_(0, cluster, votes)
        members = torch.arange(len(boxes), device=boxes.device)
        return Merged(heads, scores[heads], cluster, members, votes / totals[cluster])


class SoftVoting(BoxVoting):
    """Box voting, after which the other detections of an object stay too, with scores lowered by ``1 - IoU`` with the best.

    So an object that was taken for another one's is not lost. Source: sfzhang15/ATSS and PeizeSun/SparseR-CNN, multi-scale testing.

    Args:
        min_score: what a lowered score must reach for the detection to stay.
    """

    def __init__(self, *, threshold: float, min_score: float = 0.05) -> None:
        super().__init__(threshold=threshold)
        self.min_score = min_score

    def __call__(self, boxes: Tensor, scores: Tensor) -> Merged:
        voted = super().__call__(boxes, scores)
        lowered = scores * (1 - elementwise_iou(boxes, boxes[voted.source[voted.rows]]))
        lowered[voted.source] = -1.0  # the best of an object has become its mean
        stay = (lowered >= self.min_score).nonzero().squeeze(1)
        rows = len(voted.source) + torch.arange(len(stay), device=stay.device)
        return Merged(
            source=torch.cat([voted.source, stay]),
            scores=torch.cat([voted.scores, lowered[stay]]),
            rows=torch.cat([voted.rows, rows]),
            members=torch.cat([voted.members, stay]),
            weights=torch.cat([voted.weights, torch.ones_like(lowered[stay])]),
        )


#: by their names in ``TEST.AUG.MERGE``
MERGE_RULES: dict[str, type[MergeRule]] = {"nms": NonMaximumSuppression, "vote": BoxVoting, "soft_vote": SoftVoting}


def merge_per_class(boxes: Tensor, scores: Tensor, classes: Tensor, way: MergeRule) -> Merged:
    """Merges the detections of every class by themselves: boxes (N, 4), scores (N,), classes (N,) of integers.

    Memory grows with the detections of the most frequent class, not with their square.
    """
    labels = classes.unique() if len(classes) else classes.new_zeros(1)
    merged, rows_before = [], 0
    for label in labels:
        index = (classes == label).nonzero().squeeze(1)
        part = way(boxes[index], scores[index])
        merged.append((index[part.source], part.scores, part.rows + rows_before, index[part.members], part.weights))
        rows_before += len(part.source)
    return Merged(*(torch.cat(parts) for parts in zip(*merged, strict=True)))


def _clusters(boxes: Tensor, scores: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The best detection of every object (K,), best first, and the object of every detection (N,), in [0, K).

    Going from the best detection down, each takes all that are left and overlap it: the best ones are those that NMS keeps, and the
    others belong to the first of them that they overlap.
    """
    heads = nms(boxes, scores, threshold)
    cluster = torch.empty_like(scores, dtype=torch.long)
    step = max(_IOU_BLOCK // max(len(heads), 1), 1)
    for start in range(0, len(boxes), step):
        iou = box_iou(boxes[start : start + step], boxes[heads])
        overlapping = iou > threshold
        # the nearest one, where NMS has rounded an IoU to the other side of the threshold
        cluster[start : start + step] = torch.where(overlapping.any(1), overlapping.int().argmax(1), iou.argmax(1))
    cluster[heads] = torch.arange(len(heads), device=heads.device)
    return heads, cluster
