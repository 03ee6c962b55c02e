"""From config keys to a multi-scale detector."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detkit.config import ConfigError

from .detector import AREA_UNITS, MultiScaleDetector
from .fields import field_rules
from .merging import MERGE_WAYS, MergeRule, SoftVoting

__all__ = ["build_multi_scale_detector", "check_tta_config"]


def build_multi_scale_detector(cfg: CfgNode, model: nn.Module, dataset_name: str) -> MultiScaleDetector:
    """Wraps a model for multi-scale testing as ``cfg.TEST.AUG`` says.

    Args:
        cfg: its keys below ``TEST.AUG``, and ``TEST.DETECTIONS_PER_IMAGE``.
        model: with ``tta_fields`` where its detections carry fields of its own, see :mod:`detkit.tta.fields`.
        dataset_name: a registered dataset, whose metadata says which keypoints change places in a mirrored image.

    Raises:
        ConfigError: a key has an impossible value.
    """
    check_tta_config(cfg)
    if isinstance(model, DistributedDataParallel):
        model = model.module
    has_keypoints = hasattr(MetadataCatalog.get(dataset_name), "keypoint_flip_map")
    permutation = create_keypoint_hflip_indices(dataset_name) if has_keypoints else None
    return MultiScaleDetector(
        model=model,
        min_sizes=cfg.TEST.AUG.MIN_SIZES,
        max_size=cfg.TEST.AUG.MAX_SIZE,
        flip=cfg.TEST.AUG.FLIP,
        area_ranges=cfg.TEST.AUG.AREA_RANGES,
        area_unit=cfg.TEST.AUG.AREA_UNIT,
        merge_way=_merge_way(cfg.TEST.AUG),
        max_detections=cfg.TEST.AUG.MAX_DETECTIONS or cfg.TEST.DETECTIONS_PER_IMAGE,
        fields=field_rules(getattr(model, "tta_fields", {}), permutation),
    )


def check_tta_config(cfg: CfgNode) -> None:
    """Looks at the keys below ``TEST.AUG``.

    Raises:
        ConfigError: names the key, its value and what it takes.
    """
    aug = cfg.TEST.AUG
    if not aug.MIN_SIZES or min(aug.MIN_SIZES) <= 0:
        raise ConfigError(f"TEST.AUG.MIN_SIZES is {aug.MIN_SIZES}; it takes one or more positive sizes of the shorter side.")
    if aug.MAX_SIZE < max(aug.MIN_SIZES):
        raise ConfigError(f"TEST.AUG.MAX_SIZE is {aug.MAX_SIZE}, less than the greatest of TEST.AUG.MIN_SIZES, {max(aug.MIN_SIZES)}.")
    if aug.MAX_DETECTIONS < 0:
        raise ConfigError(f"TEST.AUG.MAX_DETECTIONS is {aug.MAX_DETECTIONS}; it is a number of detections, or 0 for DETECTIONS_PER_IMAGE.")
    if aug.AREA_RANGES and len(aug.AREA_RANGES) != len(aug.MIN_SIZES):
        raise ConfigError(
            f"TEST.AUG.AREA_RANGES has {len(aug.AREA_RANGES)} entries, TEST.AUG.MIN_SIZES {len(aug.MIN_SIZES)}: it takes one [min, max] "
            "per size, or [] to keep all boxes."
        )
    if not all(isinstance(entry, (list, tuple)) and len(entry) == 2 and entry[0] <= entry[1] for entry in aug.AREA_RANGES):
        raise ConfigError(f"TEST.AUG.AREA_RANGES is {aug.AREA_RANGES}; its entries are [min, max].")
    if aug.AREA_UNIT not in AREA_UNITS:
        raise ConfigError(f"TEST.AUG.AREA_UNIT is '{aug.AREA_UNIT}'; it takes one of {', '.join(AREA_UNITS)}.")
    if aug.MERGE not in MERGE_WAYS:
        raise ConfigError(f"TEST.AUG.MERGE is '{aug.MERGE}'; it takes one of {', '.join(MERGE_WAYS)}.")
    if not 0 < aug.MERGE_THRESH <= 1:
        raise ConfigError(f"TEST.AUG.MERGE_THRESH is {aug.MERGE_THRESH}; it is an IoU, above 0 and at most 1.")


def _merge_way(aug: CfgNode) -> MergeRule:
    if aug.MERGE == "soft_vote":
        return SoftVoting(threshold=aug.MERGE_THRESH, min_score=aug.SOFT_VOTE_MIN_SCORE)
    return MERGE_WAYS[aug.MERGE](threshold=aug.MERGE_THRESH)
