"""Multi-scale testing (test-time augmentation) of every detector: several sizes, mirrored too, merged into one set of detections."""

from .build import build_multi_scale_detector, check_tta_config
from .detector import MultiScaleDetector, View
from .fields import (
    Averaged,
    Derived,
    FieldRule,
    Followed,
    ScoredPoints,
    field_rules,
    mirror_boxes,
    mirror_masks,
    mirror_points,
    standard_fields,
)
from .merging import BoxVoting, Merged, MergeRule, NonMaximumSuppression, SoftVoting, merge_per_class

__all__ = [
    "Averaged",
    "BoxVoting",
    "Derived",
    "FieldRule",
    "Followed",
    "MergeRule",
    "Merged",
    "MultiScaleDetector",
    "NonMaximumSuppression",
    "ScoredPoints",
    "SoftVoting",
    "View",
    "build_multi_scale_detector",
    "check_tta_config",
    "field_rules",
    "merge_per_class",
    "mirror_boxes",
    "mirror_masks",
    "mirror_points",
    "standard_fields",
]
