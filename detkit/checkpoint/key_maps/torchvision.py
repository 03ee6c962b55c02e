"""torchvision's FCOS, and its classifiers as backbones."""

from .base import KeyMap
from .common import resnet_rules, tower_rules

__all__ = ["TORCHVISION_FCOS", "TORCHVISION_NETWORK", "TORCHVISION_RESNET"]

_CLASSIFIER = ("fc.{param}", "classifier.{...}")

#: a ResNet into Detectron2's
TORCHVISION_RESNET = KeyMap(
    name="torchvision ResNet",
    rules=resnet_rules(),
    ignore=_CLASSIFIER,
    backbone_only=True,
)

#: any network into the backbone of detkit.backbones, which keeps its names
TORCHVISION_NETWORK = KeyMap(
    name="torchvision classifier",
    rules={"{...}": "backbone.bottom_up.{...}"},
    ignore=_CLASSIFIER,
    backbone_only=True,
)

#: its 91 logits have one for background and one for each gap in COCO's numbers of categories
TORCHVISION_FCOS = KeyMap(
    name="torchvision FCOS",
    rules={
        **resnet_rules("backbone.body."),
        "backbone.fpn.inner_blocks.{l}.0.{param}": "backbone.fpn_lateral{l+3}.{param}",
        "backbone.fpn.layer_blocks.{l}.0.{param}": "backbone.fpn_output{l+3}.{param}",
        "backbone.fpn.extra_blocks.p{l}.{param}": "backbone.top_block.p{l}.{param}",
        **tower_rules("head.classification_head.conv", "head.cls_tower"),
        **tower_rules("head.regression_head.conv", "head.box_tower"),
        "head.classification_head.cls_logits.{param}": "head.cls_score.{param}",
        "head.regression_head.bbox_reg.{param}": "head.box_pred.{param}",
        "head.regression_head.bbox_ctrness.{param}": "head.quality.{param}",
    },
)
