"""Golden cases of Sparse R-CNN: what they hold, and our config and model for them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from detkit.checkpoint import ConversionReport, convert_state_dict
from detkit.config import get_cfg
from sparsercnn import SparseRCNN

from .cases import GoldenCase, find_cases, procedural_state_dict
from .sources import CONFIGS

__all__ = ["cases", "cfg_of", "is_mmdetection", "whole_model"]


def cases(*kinds: str) -> list[GoldenCase]:
    """The cases of these kinds, the compact selection first."""
    return find_cases(*kinds, sets=("sparsercnn", "mmdet_sparse_rcnn"))


def is_mmdetection(case: GoldenCase) -> bool:
    """Whether mmdetection computed the case, else PeizeSun/SparseR-CNN."""
    return "mmdetection" in case.meta["source"]


def cfg_of(case: GoldenCase) -> CfgNode:
    """The config of our model for a whole model's case."""
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / "sparsercnn" / "sparsercnn_R_50_FPN_100pro_3x.yaml"))
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", "cpu"
    (_from_mmdetection if is_mmdetection(case) else _from_official)(cfg, case.hyperparameters)
    third_stage = [key for key in case.state_shapes if ("layer3." in key or "res4." in key) and key.endswith("conv1.weight")]
    cfg.MODEL.RESNETS.DEPTH = {6: 50, 23: 101, 36: 152}[len(third_stage)]
    return cfg


def _from_official(cfg: CfgNode, hyper: dict[str, Any]) -> None:
    node = cfg.MODEL.SPARSE_RCNN
    node.NUM_CLASSES, node.NUM_PROPOSALS, node.NUM_STAGES = hyper["num_classes"], hyper["num_proposals"], hyper["num_stages"]
    node.IN_FEATURES = hyper["roi_in_features"]
    node.POOLER.RESOLUTION, node.POOLER.SAMPLING_RATIO = hyper["pooler_resolution"], hyper["pooler_sampling_ratio"]
    node.POOLER.TYPE = hyper["pooler_type"]
    node.HEAD.NUM_ATTENTION_HEADS, node.HEAD.DYNAMIC_CHANNELS = hyper["attention_heads"], hyper["dim_dynamic"]
    node.HEAD.FFN_CHANNELS, node.HEAD.DROPOUT = hyper["dim_feedforward"], hyper["dropout"]
    node.HEAD.NUM_CLS_LAYERS, node.HEAD.NUM_BOX_LAYERS = hyper["num_cls_layers"], hyper["num_reg_layers"]
    node.HEAD.PRIOR_PROB = hyper["prior_prob"]
    node.BOX_CODER.DELTA_WEIGHTS = hyper["bbox_delta_weights"]
    assert hyper["scale_clamp"] == "log(100000/16)"
    node.BOX_CODER.SCALE_CLAMP = math.log(100000 / 16)
    node.HEAD.CLASSIFIER = "sigmoid" if hyper["use_focal"] else "softmax"
    node.LOSS.NO_OBJECT_WEIGHT = hyper["no_object_weight (softmax variant only)"]
    node.LOSS.CLASS_WEIGHT, node.LOSS.L1_WEIGHT, node.LOSS.GIOU_WEIGHT = (hyper[f"{name}_weight"] for name in ("class", "l1", "giou"))
    node.LOSS.FOCAL_ALPHA, node.LOSS.FOCAL_GAMMA = hyper["focal_alpha"], hyper["focal_gamma"]
    costs = cfg.MODEL.ASSIGNERS.HUNGARIAN
    costs.CLASS_COST = "focal" if hyper["use_focal"] else "softmax"
    costs.FOCAL_ALPHA, costs.FOCAL_GAMMA = hyper["focal_alpha"], hyper["focal_gamma"]
    costs.CLASS_WEIGHT, costs.L1_WEIGHT, costs.GIOU_WEIGHT = node.LOSS.CLASS_WEIGHT, node.LOSS.L1_WEIGHT, node.LOSS.GIOU_WEIGHT
    cfg.TEST.DETECTIONS_PER_IMAGE = hyper["num_proposals"]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1, cfg.MODEL.RESNETS.NORM = hyper["stride_in_1x1"], hyper["resnet_norm"]
    cfg.MODEL.BACKBONE.FREEZE_AT = hyper["freeze_at"]
    cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.NORM = hyper["fpn_in_features"], hyper["fpn_norm"]
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = hyper["pixel_mean"], hyper["pixel_std"]
    cfg.INPUT.FORMAT = hyper["channel_order"]


def _from_mmdetection(cfg: CfgNode, hyper: dict[str, Any]) -> None:
    model = hyper["model"]
    roi, head = model["roi_head"], model["roi_head"]["bbox_head"][0]
    node = cfg.MODEL.SPARSE_RCNN
    node.NUM_CLASSES, node.NUM_PROPOSALS, node.NUM_STAGES = head["num_classes"], model["rpn_head"]["num_proposals"], roi["num_stages"]
    pooler = roi["bbox_roi_extractor"]["roi_layer"]
    node.POOLER.RESOLUTION, node.POOLER.SAMPLING_RATIO = pooler["output_size"], pooler["sampling_ratio"]
    node.HEAD.NUM_ATTENTION_HEADS, node.HEAD.DYNAMIC_CHANNELS = head["num_heads"], head["dynamic_conv_cfg"]["feat_channels"]
    node.HEAD.FFN_CHANNELS, node.HEAD.DROPOUT = head["feedforward_channels"], head["dropout"]
    node.HEAD.NUM_CLS_LAYERS, node.HEAD.NUM_BOX_LAYERS = head["num_cls_fcs"], head["num_reg_fcs"]
    node.BOX_CODER.DELTA_WEIGHTS = [1 / std for std in head["bbox_coder"]["target_stds"]]
    node.BOX_CODER.SCALE_CLAMP, node.BOX_CODER.DELTA_CLAMP_BELOW = math.log(1000 / 16), True
    node.LOSS.NORMALIZER = "matches"
    node.LOSS.CLASS_WEIGHT = head["loss_cls"]["loss_weight"]
    node.LOSS.FOCAL_ALPHA, node.LOSS.FOCAL_GAMMA = head["loss_cls"]["alpha"], head["loss_cls"]["gamma"]
    node.LOSS.L1_WEIGHT, node.LOSS.GIOU_WEIGHT = head["loss_bbox"]["loss_weight"], head["loss_iou"]["loss_weight"]
    costs = cfg.MODEL.ASSIGNERS.HUNGARIAN
    weights = [cost["weight"] for cost in model["train_cfg"]["rcnn"][0]["assigner"]["match_costs"]]
    costs.CLASS_WEIGHT, costs.L1_WEIGHT, costs.GIOU_WEIGHT = weights
    costs.EPS = 1e-12
    cfg.TEST.DETECTIONS_PER_IMAGE = model["test_cfg"]["rcnn"]["max_per_img"]
    images, backbone = model["data_preprocessor"], model["backbone"]
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(images["mean"]), list(images["std"])
    cfg.INPUT.FORMAT = "RGB" if images["bgr_to_rgb"] else "BGR"
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = backbone["style"] == "caffe"
    cfg.MODEL.RESNETS.NORM = "BN"  # trained, with fixed statistics
    cfg.MODEL.BACKBONE.FREEZE_AT = backbone["frozen_stages"] + 1


@lru_cache(maxsize=1)
def whole_model(case: GoldenCase) -> tuple[SparseRCNN, CfgNode, ConversionReport]:
    """The detector of a case with its official weights, converted and loaded, in evaluation mode; its config; what was converted."""
    cfg = cfg_of(case)
    model = build_model(cfg).eval()
    converted, report = convert_state_dict(procedural_state_dict(case), model)
    model.load_state_dict(converted, strict=False)
    return model, cfg, report
