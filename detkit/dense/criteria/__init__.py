"""Losses of whole detectors: predictions and an assignment to a dict of scalars."""

from .labels import (
    BoxTerm,
    DecodedBoxLoss,
    DenseTargets,
    EncodedBoxLoss,
    IoUQuality,
    LabelCriterion,
    centerness_quality,
    centerness_weights,
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
    "BoxTerm",
    "DecodedBoxLoss",
    "Denominators",
    "DenseTargets",
    "EncodedBoxLoss",
    "IoUQuality",
    "LabelCriterion",
    "MovingAverageNormalizer",
    "MovingClassNormalizer",
    "Normalizer",
    "PositivesNormalizer",
    "WeightedCriterion",
    "centerness_quality",
    "centerness_weights",
    "uniform_weights",
]
