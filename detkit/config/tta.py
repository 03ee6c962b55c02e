"""The keys of :mod:`detkit.tta` that Detectron2 does not have."""

from __future__ import annotations

from detectron2.config import CfgNode

from .limits import Form, Limit, allowed_values

__all__ = ["TTA_LIMITS", "add_tta_config"]

#: what the keys below ``TEST.AUG`` may be
TTA_LIMITS: dict[str, Limit] = {
    "MIN_SIZES": "[1, inf)",
    "MAX_SIZE": "[1, inf)",
    "MAX_DETECTIONS": "[0, inf)",
    "AREA_RANGES": Form(
        "a list of [min, max], the numbers in [0, inf), or [] to keep all boxes",
        lambda value: all(len(row) == 2 and allowed_values(row, "[0, inf]") is None for row in value),
    ),
    "AREA_UNIT": ("original", "input"),
    "MERGE": ("nms", "vote", "soft_vote"),
    "MERGE_THRESH": "(0, 1]",
    "SOFT_VOTE_MIN_SCORE": "[0, 1]",
}


def add_tta_config(cfg: CfgNode) -> None:
    """Adds the keys of multi-scale testing below ``TEST.AUG``.

    Detectron2's are ``ENABLED``, ``MIN_SIZES`` (shorter sides in pixels), ``MAX_SIZE`` (longest side) and ``FLIP`` (every scale also
    mirrored).
    """
    aug = cfg.TEST.AUG
    # detections of an image that remain after merging; 0: TEST.DETECTIONS_PER_IMAGE, as many as at each scale. COCO counts the 100 best of
    # each class, so that more than 100 in an image can count (sfzhang15/ATSS, Duankaiwen/LSNet: 1000)
    aug.MAX_DETECTIONS = 0
    # one [min, max] per entry of MIN_SIZES, in its order: a detection of that scale is kept if the square root of its box's area lies in
    # this range, ends included; []: all are kept
    aug.AREA_RANGES = []
    # in whose pixels: "original", those of the image; "input", those of the resized version that the network sees (sfzhang15/ATSS,
    # PeizeSun/SparseR-CNN, Duankaiwen/LSNet)
    aug.AREA_UNIT = "original"
    # how the detections of all scales become one set, class by class: "nms", "vote" or "soft_vote"
    aug.MERGE = "nms"
    # IoU above which two detections of a class are the same object
    aug.MERGE_THRESH = 0.6
    # "soft_vote": what a lowered score must reach for its box to stay
    aug.SOFT_VOTE_MIN_SCORE = 0.05
