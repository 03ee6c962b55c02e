"""Losses of whole detectors: predictions and an assignment to a dict of scalars."""

from .box_losses import BoxTerm, DecodedBoxLoss, EncodedBoxLoss, IoUQuality, centerness_quality
from .dense import DenseCriterion, centerness_weights, uniform_weights
from .normalizers import (
    AllPriorsNormalizer,
    Denominators,
    MovingAverageNormalizer,
    MovingClassNormalizer,
    Normalizer,
    PositivesNormalizer,
)
from .targets import DenseTargets
from .weighted import WeightedCriterion

__all__ = [
    "AllPriorsNormalizer",
    "BoxTerm",
    "DecodedBoxLoss",
    "Denominators",
    "DenseCriterion",
    "DenseTargets",
    "EncodedBoxLoss",
    "IoUQuality",
    "MovingAverageNormalizer",
    "MovingClassNormalizer",
    "Normalizer",
    "PositivesNormalizer",
    "centerness_quality",
    "centerness_weights",
    "WeightedCriterion",
    "uniform_weights",
]
