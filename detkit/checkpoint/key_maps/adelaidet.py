"""aim-uofa/AdelaiDet."""

from .base import KeyMap
from .common import DETECTRON2_OFFSETS, tower_rules

__all__ = ["ADELAIDET_FCOS"]

ADELAIDET_FCOS = KeyMap(
    name="AdelaiDet FCOS",
    rules={
        **DETECTRON2_OFFSETS,
        "backbone.{...}": "backbone.{...}",
        **tower_rules("proposal_generator.fcos_head.cls_tower", "head.cls_tower"),
        **tower_rules("proposal_generator.fcos_head.bbox_tower", "head.box_tower"),
        "proposal_generator.fcos_head.cls_logits.{param}": "head.cls_score.{param}",
        "proposal_generator.fcos_head.bbox_pred.{param}": "head.box_pred.{param}",
        "proposal_generator.fcos_head.ctrness.{param}": "head.quality.{param}",
        "proposal_generator.fcos_head.scales.{l}.scale": "head.scales.{l}.scale",
    },
    ignore=("pixel_mean", "pixel_std"),
)
