"""aim-uofa/AdelaiDet."""

from .base import KeyMap
from .common import DETECTRON2_OFFSETS, tower_rules

__all__ = ["ADELAIDET_FCOS"]

ADELAIDET_FCOS = KeyMap(
    name="AdelaiDet FCOS",
    rules={
        **DETECTRON2_OFFSETS,
        # DLA-34 as timm has it
        "backbone.bottom_up.base_layer.{...}": "backbone.bottom_up.body.base_layer.{...}",
        "backbone.bottom_up.level{s}.{...}": "backbone.bottom_up.body.level{s}.{...}",
        "backbone.{...}": "backbone.{...}",
        **tower_rules("proposal_generator.fcos_head.cls_tower", "head.cls_tower"),
        **tower_rules("proposal_generator.fcos_head.bbox_tower", "head.box_tower"),
        **tower_rules("proposal_generator.fcos_head.share_tower", "head.shared_tower"),
        # batch norms of the towers, one for each level
        "proposal_generator.fcos_head.cls_tower.{3i+1}.{l}.{param}": "head.cls_tower.{i}.norm.{l}.{param}",
        "proposal_generator.fcos_head.bbox_tower.{3i+1}.{l}.{param}": "head.box_tower.{i}.norm.{l}.{param}",
        "proposal_generator.fcos_head.share_tower.{3i+1}.{l}.{param}": "head.shared_tower.{i}.norm.{l}.{param}",
        "proposal_generator.fcos_head.cls_logits.{param}": "head.cls_score.{param}",
        "proposal_generator.fcos_head.bbox_pred.{param}": "head.box_pred.{param}",
        "proposal_generator.fcos_head.ctrness.{param}": "head.quality.{param}",
        "proposal_generator.fcos_head.scales.{l}.scale": "head.scales.{l}.scale",
    },
    # DLA-34 holds two projections that it never uses
    ignore=(
        "pixel_mean",
        "pixel_std",
        "backbone.bottom_up.level3.project.{...}",
        "backbone.bottom_up.level4.project.{...}",
    ),
)
