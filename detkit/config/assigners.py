"""The keys of the label assigners, below ``MODEL.ASSIGNERS``."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

__all__ = ["add_assigner_config"]


def add_assigner_config(cfg: CN) -> None:
    """Adds one node per assigner to ``cfg.MODEL.ASSIGNERS``; the detector's ``ASSIGNER`` key says which is used."""
    cfg.MODEL.ASSIGNERS = CN()

    node = cfg.MODEL.ASSIGNERS.FCOS = CN()
    # bounds in pixels between the levels' ranges of the largest distance to a side; one less than there are levels
    node.SIZES_OF_INTEREST = [64, 128, 256, 512]
    # in strides; 0: the whole box is positive, as in the paper (center sampling came later)
    node.CENTER_RADIUS = 1.5
    # both ends belong to a range: tianzhi0549/FCOS, AdelaiDet, mmdetection; False, neither does: Detectron2
    node.INCLUSIVE_RANGES = True

    node = cfg.MODEL.ASSIGNERS.ATSS = CN()
    node.TOPK = 9  # nearest locations per level that are candidates

    node = cfg.MODEL.ASSIGNERS.IOU = CN()
    # background below the first, object from the second, ignored in between (RetinaNet)
    node.THRESHOLDS = [0.4, 0.5]
    # each object also takes the anchors that overlap it most
    node.ALLOW_LOW_QUALITY = True
