"""From config keys to a multi-scale detector."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detkit.config import Section
from detkit.config.tta import TTA_LIMITS

from .detector import MultiScaleDetector
from .fields import field_rules
from .merging import MERGE_RULES, MergeRule, SoftVoting

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
        merge_rule=_merge_rule(cfg.TEST.AUG),
        max_detections=cfg.TEST.AUG.MAX_DETECTIONS or cfg.TEST.DETECTIONS_PER_IMAGE,
        fields=field_rules(getattr(model, "tta_fields", {}), permutation),
    )


def check_tta_config(cfg: CfgNode) -> None:
    """Checks the keys below ``TEST.AUG``.

    Raises:
        ConfigError: names the key, its value and what is allowed.
    """
    aug = Section(cfg, "TEST.AUG")
    aug.check(TTA_LIMITS)
    if not aug.MIN_SIZES:
        raise aug.refusal("MIN_SIZES", "one or more sizes of the shorter side, in pixels")
    if aug.MAX_SIZE < max(aug.MIN_SIZES):
        raise aug.refusal("MAX_SIZE", f"at least the greatest of TEST.AUG.MIN_SIZES, {max(aug.MIN_SIZES)}")
    ranges_are_pairs = all(isinstance(entry, (list, tuple)) and len(entry) == 2 and entry[0] <= entry[1] for entry in aug.AREA_RANGES)
    if aug.AREA_RANGES and (not ranges_are_pairs or len(aug.AREA_RANGES) != len(aug.MIN_SIZES)):
        raise aug.refusal("AREA_RANGES", f"one [min, max] for each of the {len(aug.MIN_SIZES)} TEST.AUG.MIN_SIZES, or [] to keep all boxes")
    if aug.MERGE != "soft_vote":
        aug.refuse_unread(["SOFT_VOTE_MIN_SCORE"], f"merging by {aug.MERGE!r}")


def _merge_rule(aug: CfgNode) -> MergeRule:
    if aug.MERGE == "soft_vote":
        return SoftVoting(threshold=aug.MERGE_THRESH, min_score=aug.SOFT_VOTE_MIN_SCORE)
    return MERGE_RULES[aug.MERGE](threshold=aug.MERGE_THRESH)
