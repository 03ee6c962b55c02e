"""torchvision's classifiers as backbones, and its dense detectors."""

from .base import KeyMap
from .common import resnet_rules, tower_rules

__all__ = ["TORCHVISION_FCOS", "TORCHVISION_NETWORK", "TORCHVISION_RESNET", "TORCHVISION_RETINANET"]

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

#: pyramids from res3 on; before version 0.14 the convolutions stood without the ".0"
_PYRAMID = {
    "backbone.fpn.inner_blocks.{l}.0.{param}": "backbone.fpn_lateral{l+3}.{param}",
    "backbone.fpn.inner_blocks.{l}.{param}": "backbone.fpn_lateral{l+3}.{param}",
    "backbone.fpn.layer_blocks.{l}.0.{param}": "backbone.fpn_output{l+3}.{param}",
    "backbone.fpn.layer_blocks.{l}.{param}": "backbone.fpn_output{l+3}.{param}",
    "backbone.fpn.extra_blocks.p{l}.{param}": "backbone.top_block.p{l}.{param}",
}
_OUTPUTS = {
    "head.classification_head.cls_logits.{param}": "head.cls_score.{param}",
    "head.regression_head.bbox_reg.{param}": "head.box_pred.{param}",
    "head.regression_head.bbox_ctrness.{param}": "head.quality.{param}",
}

TORCHVISION_FCOS = KeyMap(
    name="torchvision FCOS",
    rules={
        **resnet_rules("backbone.body."),
        **_PYRAMID,
        **tower_rules("head.classification_head.conv", "head.cls_tower"),
        **tower_rules("head.regression_head.conv", "head.box_tower"),
        **_OUTPUTS,
    },
)

#: its towers have no norm, or (``retinanet_resnet50_fpn_v2``) GroupNorm beside the convolution; before version 0.14 "conv.{2i}"
TORCHVISION_RETINANET = KeyMap(
    name="torchvision RetinaNet",
    rules={
        **resnet_rules("backbone.body."),
        **_PYRAMID,
        "head.classification_head.conv.{i}.0.{param}": "head.cls_tower.{i}.{param}",
        "head.classification_head.conv.{i}.1.{param}": "head.cls_tower.{i}.norm.{param}",
        "head.regression_head.conv.{i}.0.{param}": "head.box_tower.{i}.{param}",
        "head.regression_head.conv.{i}.1.{param}": "head.box_tower.{i}.norm.{param}",
        **tower_rules("head.classification_head.conv", "head.cls_tower", norm=False),
        **tower_rules("head.regression_head.conv", "head.box_tower", norm=False),
        **_OUTPUTS,
    },
)
