"""Detectron2's own FCOS and RetinaNet, and its ImageNet weights."""

from .base import KeyMap
from .common import DETECTRON2_OFFSETS, tower_rules

__all__ = ["DETECTRON2_BACKBONE", "DETECTRON2_FCOS", "DETECTRON2_RETINANET"]

_IGNORE = ("pixel_mean", "pixel_std", "anchor_generator.cell_anchors.{l}", "head._ema.{...}")

DETECTRON2_FCOS = KeyMap(
    name="Detectron2 FCOS",
    rules={
        **DETECTRON2_OFFSETS,
        "backbone.{...}": "backbone.{...}",
        **tower_rules("head.cls_subnet", "head.cls_tower"),
        **tower_rules("head.bbox_subnet", "head.box_tower"),
        "head.cls_score.{param}": "head.cls_score.{param}",
        "head.bbox_pred.{param}": "head.box_pred.{param}",
        "head.ctrness.{param}": "head.quality.{param}",
    },
    ignore=_IGNORE,
)

#: its towers have no norm
DETECTRON2_RETINANET = KeyMap(
    name="Detectron2 RetinaNet",
    rules={
        **DETECTRON2_OFFSETS,
        "backbone.{...}": "backbone.{...}",
        **tower_rules("head.cls_subnet", "head.cls_tower", norm=False),
        **tower_rules("head.bbox_subnet", "head.box_tower", norm=False),
        "head.cls_score.{param}": "head.cls_score.{param}",
        "head.bbox_pred.{param}": "head.box_pred.{param}",
    },
    ignore=_IGNORE,
)

#: ``detectron2://ImageNetPretrained/...``, also the Caffe2 files once Detectron2 has renamed their keys
DETECTRON2_BACKBONE = KeyMap(
    name="Detectron2 ImageNet ResNet",
    rules={
        "stem.conv1.{...}": "backbone.bottom_up.stem.conv1.{...}",
        "res{s}.{...}": "backbone.bottom_up.res{s}.{...}",
    },
    ignore=("stem.fc.{param}", "fc{n}.{param}", "linear.{param}"),
    backbone_only=True,
)
