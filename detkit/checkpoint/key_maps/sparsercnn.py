"""PeizeSun/SparseR-CNN, and Sparse R-CNN of mmdetection."""

from .base import KeyMap
from .common import resnet_rules

__all__ = ["MMDETECTION_SPARSE_RCNN", "SPARSE_RCNN"]

SPARSE_RCNN = KeyMap(
    name="PeizeSun/SparseR-CNN",
    rules={
        "backbone.{...}": "backbone.{...}",
        "init_proposal_boxes.weight": "proposals.boxes",
        "init_proposal_features.weight": "proposals.features",
        "head.head_series.{s}.self_attn.{...}": "head.stages.{s}.attention.attention.{...}",
        "head.head_series.{s}.norm1.{param}": "head.stages.{s}.attention.norm.{param}",
        "head.head_series.{s}.inst_interact.dynamic_layer.{param}": "head.stages.{s}.interaction.conv.generator.{param}",
        "head.head_series.{s}.inst_interact.norm3.{param}": "head.stages.{s}.interaction.conv.norm_out.{param}",
        "head.head_series.{s}.inst_interact.norm{n}.{param}": "head.stages.{s}.interaction.conv.norm{n}.{param}",
        "head.head_series.{s}.inst_interact.out_layer.{param}": "head.stages.{s}.interaction.conv.out.{param}",
        "head.head_series.{s}.norm2.{param}": "head.stages.{s}.interaction.norm.{param}",
        "head.head_series.{s}.linear{n}.{param}": "head.stages.{s}.ffn.linear{n}.{param}",
        "head.head_series.{s}.norm3.{param}": "head.stages.{s}.ffn.norm.{param}",
        "head.head_series.{s}.cls_module.{i}.{param}": "head.stages.{s}.cls_tower.{i}.{param}",
        "head.head_series.{s}.reg_module.{i}.{param}": "head.stages.{s}.box_tower.{i}.{param}",
        "head.head_series.{s}.class_logits.{param}": "head.stages.{s}.cls_score.{param}",
        "head.head_series.{s}.bboxes_delta.{param}": "head.stages.{s}.box_pred.{param}",
    },
    ignore=("pixel_mean", "pixel_std", "criterion.empty_weight"),
)

MMDETECTION_SPARSE_RCNN = KeyMap(
    name="mmdetection Sparse R-CNN",
    rules={
        **resnet_rules("backbone."),
        "neck.lateral_convs.{l}.conv.{param}": "backbone.fpn_lateral{l+2}.{param}",
        "neck.fpn_convs.{l}.conv.{param}": "backbone.fpn_output{l+2}.{param}",
        "rpn_head.init_proposal_bboxes.weight": "proposals.boxes",
        "rpn_head.init_proposal_features.weight": "proposals.features",
        "roi_head.bbox_head.{s}.attention.attn.{...}": "head.stages.{s}.attention.attention.{...}",
        "roi_head.bbox_head.{s}.attention_norm.{param}": "head.stages.{s}.attention.norm.{param}",
        "roi_head.bbox_head.{s}.instance_interactive_conv.dynamic_layer.{param}": "head.stages.{s}.interaction.conv.generator.{param}",
        "roi_head.bbox_head.{s}.instance_interactive_conv.norm_in.{param}": "head.stages.{s}.interaction.conv.norm1.{param}",
        "roi_head.bbox_head.{s}.instance_interactive_conv.norm_out.{param}": "head.stages.{s}.interaction.conv.norm2.{param}",
        "roi_head.bbox_head.{s}.instance_interactive_conv.fc_layer.{param}": "head.stages.{s}.interaction.conv.out.{param}",
        "roi_head.bbox_head.{s}.instance_interactive_conv.fc_norm.{param}": "head.stages.{s}.interaction.conv.norm_out.{param}",
        "roi_head.bbox_head.{s}.instance_interactive_conv_norm.{param}": "head.stages.{s}.interaction.norm.{param}",
        "roi_head.bbox_head.{s}.ffn.layers.0.0.{param}": "head.stages.{s}.ffn.linear1.{param}",
        "roi_head.bbox_head.{s}.ffn.layers.1.{param}": "head.stages.{s}.ffn.linear2.{param}",
        "roi_head.bbox_head.{s}.ffn_norm.{param}": "head.stages.{s}.ffn.norm.{param}",
        "roi_head.bbox_head.{s}.cls_fcs.{i}.{param}": "head.stages.{s}.cls_tower.{i}.{param}",
        "roi_head.bbox_head.{s}.reg_fcs.{i}.{param}": "head.stages.{s}.box_tower.{i}.{param}",
        "roi_head.bbox_head.{s}.fc_cls.{param}": "head.stages.{s}.cls_score.{param}",
        "roi_head.bbox_head.{s}.fc_reg.{param}": "head.stages.{s}.box_pred.{param}",
    },
    ignore=("data_preprocessor.{param}", "ema_{...}"),
)
