"""How many objects a label assignment can recall at best, and how many of its samples are ambiguous (FCOS, Tables 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from detkit.geometry import Priors
from detkit.structures import GroundTruth

from .images import LabeledImage
from .settings import AssignmentSetting

__all__ = ["RecallBound", "ambiguous_priors", "claims_of", "recall_bound"]


@dataclass(frozen=True)
class RecallBound:
    """Counts over a dataset.

    Attributes:
        objects: ground-truth boxes, without crowds.
        recalled: objects that at least one sample learns, after each sample has chosen one object.
        samples: positive samples (locations or anchors).
        ambiguous: samples that more than one object claims.
        ambiguous_classes: samples that objects of different classes claim.
    """

    objects: int = 0
    recalled: int = 0
    samples: int = 0
    ambiguous: int = 0
    ambiguous_classes: int = 0

    @property
    def best_possible_recall(self) -> float:
        """In percent (FCOS, section 4.1.1)."""
        return 100 * self.recalled / max(self.objects, 1)

    @property
    def ambiguous_share(self) -> float:
        """Ambiguous samples in percent of all positive ones (FCOS, Table 2)."""
        return 100 * self.ambiguous / max(self.samples, 1)

    @property
    def ambiguous_classes_share(self) -> float:
        """The same, between classes."""
        return 100 * self.ambiguous_classes / max(self.samples, 1)

    def __add__(self, other: RecallBound) -> RecallBound:
        return RecallBound(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def recall_bound(setting: AssignmentSetting, images: Iterable[LabeledImage]) -> RecallBound:
    """Sums the counts of all images."""
    return sum((_of_image(setting, image) for image in images), RecallBound())


def _of_image(setting: AssignmentSetting, image: LabeledImage) -> RecallBound:
    priors = setting.priors(image.size)
    labels = setting.assign(image.gt, priors).gt_index[0]
    claims = claims_of(setting, image.gt, priors)
    ambiguous, across_classes = ambiguous_priors(claims, image.gt.classes[0])
    return RecallBound(
        objects=claims.shape[0],
        recalled=int(labels[labels >= 0].unique().numel()),
        samples=int(claims.any(0).sum()),
        ambiguous=int(ambiguous.sum()),
        ambiguous_classes=int(across_classes.sum()),
    )


def ambiguous_priors(claims: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Which priors (P,) more than one object claims, and which of these objects of different classes.

    Args:
        claims: (G, P) bool, G at least 1.
        classes: (G,) of the objects.
    """
    class_of = classes[:, None].expand_as(claims)
    highest = class_of.masked_fill(~claims, -1).amax(0)
    lowest = class_of.masked_fill(~claims, int(classes.max()) + 1).amin(0)
    ambiguous = claims.sum(0) > 1
    return ambiguous, ambiguous & (lowest < highest)


def claims_of(setting: AssignmentSetting, gt: GroundTruth, priors: Priors, chunk: int = 16) -> Tensor:
    """(G, P) bool: the samples that each object would have if it were alone on the image."""
    alone = GroundTruth(gt.boxes[0, :, None], gt.classes[0, :, None], gt.valid[0, :, None])
    parts = [
        setting.assign(GroundTruth(*(field[start : start + chunk] for field in (alone.boxes, alone.classes, alone.valid))), priors).gt_index
        for start in range(0, len(alone.valid), chunk)
    ]
    return torch.cat(parts) >= 0
