"""mmdetection's FCOS, ATSS, RetinaNet, AutoAssign and TOOD, of all versions, and strongwolf/DW, which is made from it."""

from .base import KeyMap
from .common import resnet_rules

__all__ = ["MMDETECTION"]

MMDETECTION = KeyMap(
    name="mmdetection FCOS, ATSS or TOOD, or strongwolf/DW",
    rules={
        **resnet_rules("backbone."),
        "neck.lateral_convs.{l}.conv.{param}": "backbone.fpn_lateral{l+3}.{param}",
        # the fourth and fifth output convolution make P6 and P7
        "neck.fpn_convs.3.conv.{param}": "backbone.top_block.p6.{param}",
        "neck.fpn_convs.4.conv.{param}": "backbone.top_block.p7.{param}",
        "neck.fpn_convs.{l}.conv.{param}": "backbone.fpn_output{l+3}.{param}",
        "bbox_head.cls_convs.{i}.conv.{param}": "head.cls_tower.{i}.{param}",
        "bbox_head.cls_convs.{i}.conv.conv_offset.{param}": "head.cls_tower.{i}.conv_offset.{param}",
        "bbox_head.cls_convs.{i}.gn.{param}": "head.cls_tower.{i}.norm.{param}",
        "bbox_head.reg_convs.{i}.conv.{param}": "head.box_tower.{i}.{param}",
        "bbox_head.reg_convs.{i}.conv.conv_offset.{param}": "head.box_tower.{i}.conv_offset.{param}",
        "bbox_head.reg_convs.{i}.gn.{param}": "head.box_tower.{i}.norm.{param}",
        "bbox_head.conv_cls.{param}": "head.cls_score.{param}",
        "bbox_head.conv_reg.{param}": "head.box_pred.{param}",
        "bbox_head.conv_centerness.{param}": "head.quality.{param}",
        # FCOS before version 2.0
        "bbox_head.fcos_cls.{param}": "head.cls_score.{param}",
        "bbox_head.fcos_reg.{param}": "head.box_pred.{param}",
        "bbox_head.fcos_centerness.{param}": "head.quality.{param}",
        # ATSS
        "bbox_head.atss_cls.{param}": "head.cls_score.{param}",
        "bbox_head.atss_reg.{param}": "head.box_pred.{param}",
        "bbox_head.atss_centerness.{param}": "head.quality.{param}",
        # RetinaNet
        "bbox_head.retina_cls.{param}": "head.cls_score.{param}",
        "bbox_head.retina_reg.{param}": "head.box_pred.{param}",
        "bbox_head.scales.{l}.scale": "head.scales.{l}.scale",
        # strongwolf/DW
        "bbox_head.reg_offset.{param}": "head.offset_pred.{param}",
        "bbox_head.center_prior.{param}": "assigner.center_prior.{param}",
        # TOOD
        "bbox_head.inter_convs.{i}.conv.{param}": "head.tower.{i}.{param}",
        "bbox_head.inter_convs.{i}.conv.conv_offset.{param}": "head.tower.{i}.conv_offset.{param}",
        "bbox_head.inter_convs.{i}.gn.{param}": "head.tower.{i}.norm.{param}",
        "bbox_head.cls_decomp.layer_attention.{i}.{param}": "head.cls_decomposition.attention.{i}.{param}",
        "bbox_head.cls_decomp.reduction_conv.conv.{param}": "head.cls_decomposition.reduction.{param}",
        "bbox_head.cls_decomp.reduction_conv.gn.{param}": "head.cls_decomposition.reduction.norm.{param}",
        "bbox_head.reg_decomp.layer_attention.{i}.{param}": "head.box_decomposition.attention.{i}.{param}",
        "bbox_head.reg_decomp.reduction_conv.conv.{param}": "head.box_decomposition.reduction.{param}",
        "bbox_head.reg_decomp.reduction_conv.gn.{param}": "head.box_decomposition.reduction.norm.{param}",
        "bbox_head.tood_cls.{param}": "head.cls_score.{param}",
        "bbox_head.tood_reg.{param}": "head.box_pred.{param}",
        "bbox_head.cls_prob_module.{i}.{param}": "head.alignment.{i}.{param}",
        "bbox_head.reg_offset_module.{i}.{param}": "head.offset_pred.{i}.{param}",
    },
    # averages of weights that mmcv's hook kept beside them, and the running histograms of GHM's losses
    ignore=("data_preprocessor.{param}", "ema_{...}", "bbox_head.loss_cls.{param}", "bbox_head.loss_bbox.{param}"),
)
