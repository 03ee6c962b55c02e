"""tianzhi0549/FCOS and sfzhang15/ATSS, both made from maskrcnn-benchmark."""

from .base import KeyMap
from .common import resnet_rules, tower_rules

__all__ = ["FCOS_CORE", "FCOS_CORE_MOBILENET"]

FCOS_CORE = KeyMap(
    name="tianzhi0549/FCOS or sfzhang15/ATSS",
    rules={
        **resnet_rules("backbone.body.", stem=("stem.conv1", "stem.bn1")),
        # deformable layers hold the convolution and the one that predicts offsets
        "backbone.body.layer{s}.{b}.conv{n}.conv.{param}": "backbone.bottom_up.res{s+1}.{b}.conv{n}.{param}",
        "backbone.body.layer{s}.{b}.conv{n}.offset.{param}": "backbone.bottom_up.res{s+1}.{b}.conv{n}.conv_offset.{param}",
        "backbone.fpn.fpn_inner{l}.{param}": "backbone.fpn_lateral{l+1}.{param}",
        "backbone.fpn.fpn_layer{l}.{param}": "backbone.fpn_output{l+1}.{param}",
        "backbone.fpn.top_blocks.p{l}.{param}": "backbone.top_block.p{l}.{param}",
        **tower_rules("rpn.head.cls_tower", "head.cls_tower"),
        **tower_rules("rpn.head.bbox_tower", "head.box_tower"),
        "rpn.head.cls_logits.{param}": "head.cls_score.{param}",
        "rpn.head.bbox_pred.{param}": "head.box_pred.{param}",
        "rpn.head.centerness.{param}": "head.quality.{param}",
        "rpn.head.scales.{l}.scale": "head.scales.{l}.scale",
    },
    ignore=("rpn.anchor_generator.cell_anchors.{l}",),
    running_var_shift=-1e-5,
)

#: tianzhi0549/FCOS on MobileNetV2, whose batch norms have an epsilon
FCOS_CORE_MOBILENET = KeyMap(
    name="tianzhi0549/FCOS on MobileNetV2",
    rules={
        "backbone.body.features.0.{i}.{param}": "backbone.bottom_up.features.0.{i}.{param}",
        # the first block has no convolution that widens
        "backbone.body.features.1.conv.0.{param}": "backbone.bottom_up.features.1.conv.0.0.{param}",
        "backbone.body.features.1.conv.1.{param}": "backbone.bottom_up.features.1.conv.0.1.{param}",
        "backbone.body.features.1.conv.3.{param}": "backbone.bottom_up.features.1.conv.1.{param}",
        "backbone.body.features.1.conv.4.{param}": "backbone.bottom_up.features.1.conv.2.{param}",
        "backbone.body.features.{i}.conv.0.{param}": "backbone.bottom_up.features.{i}.conv.0.0.{param}",
        "backbone.body.features.{i}.conv.1.{param}": "backbone.bottom_up.features.{i}.conv.0.1.{param}",
        "backbone.body.features.{i}.conv.3.{param}": "backbone.bottom_up.features.{i}.conv.1.0.{param}",
        "backbone.body.features.{i}.conv.4.{param}": "backbone.bottom_up.features.{i}.conv.1.1.{param}",
        "backbone.body.features.{i}.conv.6.{param}": "backbone.bottom_up.features.{i}.conv.2.{param}",
        "backbone.body.features.{i}.conv.7.{param}": "backbone.bottom_up.features.{i}.conv.3.{param}",
        **{source: ours for source, ours in FCOS_CORE.rules.items() if not source.startswith("backbone.body.")},
    },
    ignore=FCOS_CORE.ignore,
)
