"""How many detections come from ambiguous locations (FCOS, section 4.1.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from detkit.dense import DenseDetector

from .recall import ambiguous_priors, claims_of
from .settings import AssignmentSetting

__all__ = ["AmbiguousDetections", "ambiguous_detections"]


@dataclass(frozen=True)
class AmbiguousDetections:
    """Counts over a dataset.

    Attributes:
        detections: of the detector, after non-maximum suppression.
        ambiguous: made at a location that more than one object claims in training.
        ambiguous_classes: made at a location that objects of different classes claim.
    """

    detections: int = 0
    ambiguous: int = 0
    ambiguous_classes: int = 0

    @property
    def share(self) -> float:
        """Detections from ambiguous locations in percent; FCOS reports 2.3."""
        return 100 * self.ambiguous / max(self.detections, 1)

    @property
    def classes_share(self) -> float:
        """The same, between classes; FCOS reports 1.5."""
        return 100 * self.ambiguous_classes / max(self.detections, 1)

    def __add__(self, other: AmbiguousDetections) -> AmbiguousDetections:
        return AmbiguousDetections(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@torch.no_grad()
def ambiguous_detections(model: DenseDetector, batched_inputs: Iterable[dict[str, Any]]) -> AmbiguousDetections:
    """Counts the detections of images by the location that each was made at.

    Args:
        model: in evaluation mode, with an assigner that needs no predictions.
        batched_inputs: one image each, resized as for testing, with ``instances`` in pixels of the network's input.

    Raises:
        ValueError: an assigner whose labels depend on predictions.
    """
    setting = AssignmentSetting(type(model).__name__, model.assigner, model.prior_generator)
    return sum((_of_image(model, setting, batched_input) for batched_input in batched_inputs), AmbiguousDetections())


def _of_image(model: DenseDetector, setting: AssignmentSetting, batched_input: dict[str, Any]) -> AmbiguousDetections:
    images = model.preprocess_image([batched_input])
    predictions, priors = model.pipeline.decode(model.predict(images))
    number = torch.arange(predictions.boxes.shape[1], device=model.device)[None]
    found = model.postprocessor(
        predictions,
        priors_per_level=priors.per_level,
        image_sizes=torch.tensor(images.image_sizes, dtype=torch.float32, device=model.device),
        fields={"prior": number},
    )
    used = found.fields["prior"][0, : int(found.counts[0])]
    gt = model.ground_truth([batched_input["instances"].to(model.device)])
    if not gt.valid.any():
        return AmbiguousDetections(len(used))
    ambiguous, across_classes = ambiguous_priors(claims_of(setting, gt, priors), gt.classes[0])
    return AmbiguousDetections(len(used), int(ambiguous[used].sum()), int(across_classes[used].sum()))
