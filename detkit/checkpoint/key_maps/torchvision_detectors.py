"""torchvision's FCOS and RetinaNets, which have a logit for each of COCO's 91 category numbers, of which 80 are annotated."""

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from .base import KeyMap
from .common import resnet_rules, tower_rules

__all__ = ["TORCHVISION_FCOS", "TORCHVISION_RETINANET", "TORCHVISION_RETINANET_V2"]

#: COCO's category numbers in the order of our classes
_CLASSES = tuple(category["id"] for category in COCO_CATEGORIES if category["isthing"])
#: pyramids from res3 on; before version 0.14 the convolutions stood without the ".0"
_BACKBONE = {
    **resnet_rules("backbone.body."),
    "backbone.fpn.inner_blocks.{l}.0.{param}": "backbone.fpn_lateral{l+3}.{param}",
    "backbone.fpn.inner_blocks.{l}.{param}": "backbone.fpn_lateral{l+3}.{param}",
    "backbone.fpn.layer_blocks.{l}.0.{param}": "backbone.fpn_output{l+3}.{param}",
    "backbone.fpn.layer_blocks.{l}.{param}": "backbone.fpn_output{l+3}.{param}",
    "backbone.fpn.extra_blocks.p{l}.{param}": "backbone.top_block.p{l}.{param}",
}
_OUTPUTS = {
    "head.classification_head.cls_logits.{param}": "head.cls_score.{param}",
    "head.regression_head.bbox_reg.{param}": "head.box_pred.{param}",
}

TORCHVISION_FCOS = KeyMap(
    name="torchvision FCOS",
    rules={
        **_BACKBONE,
        **tower_rules("head.classification_head.conv", "head.cls_tower"),
        **tower_rules("head.regression_head.conv", "head.box_tower"),
        **_OUTPUTS,
        "head.regression_head.bbox_ctrness.{param}": "head.quality.{param}",
    },
    num_classes=91,
    class_rows=_CLASSES,
)

#: retinanet_resnet50_fpn, whose released weights go with batch norms without epsilon; before version 0.14 its towers were "conv.{2i}"
TORCHVISION_RETINANET = KeyMap(
    name="torchvision RetinaNet",
    rules={
        **_BACKBONE,
        "head.classification_head.conv.{i}.0.{param}": "head.cls_tower.{i}.{param}",
        "head.regression_head.conv.{i}.0.{param}": "head.box_tower.{i}.{param}",
        **tower_rules("head.classification_head.conv", "head.cls_tower", norm=False),
        **tower_rules("head.regression_head.conv", "head.box_tower", norm=False),
        **_OUTPUTS,
    },
    num_classes=91,
    class_rows=_CLASSES,
    running_var_shift=-1e-5,
)

#: retinanet_resnet50_fpn_v2: group norms in the towers
TORCHVISION_RETINANET_V2 = KeyMap(
    name="torchvision RetinaNet v2",
    rules={
        **TORCHVISION_RETINANET.rules,
        "head.classification_head.conv.{i}.1.{param}": "head.cls_tower.{i}.norm.{param}",
        "head.regression_head.conv.{i}.1.{param}": "head.box_tower.{i}.norm.{param}",
    },
    num_classes=91,
    class_rows=_CLASSES,
)
