"""Losses of whole detectors: predictions and an assignment to a dict of scalars."""

from .labels import (
    BoxComparison,
    BoxTerm,
    DenseTargets,
    LabelCriterion,
    centerness_quality,
    centerness_weights,
    decoded_box_loss,
    encoded_box_loss,
    iou_quality,
    uniform_weights,
)
from .normalizers import (
    AllPriorsNormalizer,
    Denominators,
    MovingAverageNormalizer,
    MovingClassNormalizer,
    Normalizer,
    PositivesNormalizer,
)
from .weighted import WeightedCriterion

__all__ = [
    "AllPriorsNormalizer",
    "BoxComparison",
    "BoxTerm",
    "Denominators",
    "DenseTargets",
    "LabelCriterion",
    "MovingAverageNormalizer",
    "MovingClassNormalizer",
    "Normalizer",
    "PositivesNormalizer",
    "WeightedCriterion",
    "centerness_quality",
    "centerness_weights",
    "decoded_box_loss",
    "encoded_box_loss",
    "iou_quality",
    "uniform_weights",
]
