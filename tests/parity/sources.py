"""Our config for the conventions of each published code, from the hyperparameters that a golden case states."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from detkit.config import get_cfg

from .cases import GoldenCase

__all__ = ["cfg_of", "code_of", "not_covered", "set_network", "settings_of"]

CONFIGS = Path(__file__).parents[2] / "configs"
_CODES = ("tianzhi0549/FCOS", "aim-uofa/AdelaiDet", "facebookresearch/detectron2", "sfzhang15/ATSS", "open-mmlab/mmdetection")


#: what tianzhi0549/FCOS's improved configs set beside the paper's
TIANZHI_IMPROVED = {"center_sampling_radius": 1.5, "iou_loss_type": "giou", "norm_reg_targets": True, "centerness_on_reg": True}


def code_of(case: GoldenCase) -> str:
    """The published code that computed a case."""
    found = [code for code in _CODES if code.lower() in str(case.meta.get("source", "")).lower()]
    if not found:
        raise ValueError(f"{case.id} names none of the known codes as its source: {case.meta.get('source')}")
    return found[0]


def not_covered(case: GoldenCase) -> str | None:
    """Why a case needs what the project does not have; None where it does not."""
    backbone = case.hyperparameters.get("model", {}).get("backbone", {}).get("type", "ResNet")
    if not any(code.lower() in str(case.meta.get("source", "")).lower() for code in _CODES):
        return f"source {case.meta.get('source')}"
    if backbone not in ("ResNet", "ResNeXt"):
        return f"backbone {backbone}"
    return None


def settings_of(part: dict[str, Any]) -> dict[str, Any]:
    """What one part of a case sets, by the names of its code."""
    named = dict(part.get("settings (others: R_50_1x defaults)") or part.get("settings") or {})
    if "config" in part:
        named |= TIANZHI_IMPROVED if "imprv" in part["config"] else {}
        options = [option for option in part["opts"] if option != "tiny only"]
        named |= {key.removeprefix("MODEL.FCOS.").lower(): value for key, value in zip(options[0::2], options[1::2], strict=True)}
    known = ("pre_nms_thresh", "pre_nms_top_n", "nms_thresh", "detections_per_img", "score_thresh", "topk_candidates", "max_detections")
    return named | {key: part[key] for key in known if key in part}


def cfg_of(case: GoldenCase, settings: dict[str, Any] | None = None) -> CfgNode:
    """The config of our model for a case.

    Args:
        case: its hyperparameters count where it states them, else the defaults of its code.
        settings: what one part of the case changes, by the names of its code.
    """
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / "Base-Dense.yaml"))
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cpu"
    builders = {
        "tianzhi0549/FCOS": _tianzhi,
        "aim-uofa/AdelaiDet": _adelaidet,
        "facebookresearch/detectron2": _detectron2,
        "sfzhang15/ATSS": _official_atss,
        "open-mmlab/mmdetection": _mmdetection,
    }
    builders[code_of(case)](cfg, case.hyperparameters | (settings or {}), case)
    if case.state_shapes:
        set_network(cfg, case.state_shapes)
    return cfg


#: first key of a layer that predicts offsets -> stage of the backbone, or nothing for one of a tower
_OFFSETS = re.compile(r"(?:(?:layer|res)(\d)\.\d+\.conv2|tower\.\d+|convs\.\d+\.conv)[._](?:conv_)?offset\.weight$")


def set_network(cfg: CfgNode, shapes: dict[str, tuple[int, ...]]) -> None:
    """Depth, width and deformable layers, read off the official weights."""
    node = cfg.MODEL.RESNETS
    third_stage = [key for key in shapes if ("layer3." in key or "res4." in key) and key.endswith("conv1.weight")]
    node.DEPTH = {6: 50, 23: 101, 36: 152}[len(third_stage)]
    width, per_group = next(shape for key, shape in shapes.items() if re.search(r"(layer1|res2)\.0\.conv2\.(conv\.)?weight", key))[:2]
    node.NUM_GROUPS, node.WIDTH_PER_GROUP = width // per_group, per_group
    offsets = {key: (found, shape) for key, shape in shapes.items() if (found := _OFFSETS.search(key))}
    first = 1 if any("layer" in key for key in offsets) else 2
    stages = {int(found[1]) - first for found, _ in offsets.values() if found[1]}
    if stages:
        channels = next(shape[0] for found, shape in offsets.values() if found[1])
        cfg.MODEL.FPN.BOTTOM_UP = "build_deformable_resnet_backbone"
        node.DEFORM_ON_PER_STAGE = [stage in stages for stage in range(4)]
        node.DEFORM_MODULATED = channels % 27 == 0
        node.DEFORM_NUM_GROUPS = channels // (27 if node.DEFORM_MODULATED else 18)
    head, of_tower = cfg.MODEL[cfg.MODEL.META_ARCHITECTURE].HEAD, [key for key, (found, _) in offsets.items() if not found[1]]
    head.DCN_ON_FIRST_CONVS = sum("inter_convs" in key for key in of_tower)
    head.DCN_ON_LAST_CONV = len(of_tower) > head.DCN_ON_FIRST_CONVS


def _tianzhi(cfg: CfgNode, hyper: dict[str, Any], case: GoldenCase) -> None:
    cfg.MODEL.META_ARCHITECTURE = "FCOS"
    node = cfg.MODEL.FCOS
    # cases without a network count their 5 classes without the background
    node.NUM_CLASSES = hyper["num_classes"] - (1 if case.state_shapes else 0)
    node.PLUS_ONE = True
    node.HEAD.NUM_CONVS = hyper.get("num_convs", 4)
    node.HEAD.QUALITY = "box" if hyper.get("centerness_on_reg") else "cls"
    node.HEAD.PRIOR_PROB = hyper.get("prior_prob", 0.01)
    node.BOX_CODER.NAME = "relu" if hyper.get("norm_reg_targets") else "exp"
    node.LOSS.BOX = hyper.get("iou_loss_type", "iou")
    node.LOSS.IOU_PLUS_ONE = True
    node.LOSS.FOCAL_ALPHA, node.LOSS.FOCAL_GAMMA = hyper.get("loss_alpha", 0.25), hyper.get("loss_gamma", 2.0)
    node.TEST.SCORE_THRESH = hyper.get("inference_th", hyper.get("pre_nms_thresh", 0.05))
    node.TEST.TOPK_PER_LEVEL = hyper.get("pre_nms_top_n", 1000)
    node.TEST.NMS_THRESH = hyper.get("nms_th", hyper.get("nms_thresh", 0.6))
    cfg.TEST.DETECTIONS_PER_IMAGE = hyper.get("detections_per_img", 100)
    cfg.MODEL.ASSIGNERS.FCOS.CENTER_RADIUS = float(hyper.get("center_sampling_radius", 0.0))
    _backbone(cfg, hyper)


def _adelaidet(cfg: CfgNode, hyper: dict[str, Any], case: GoldenCase) -> None:
    hyper = hyper | {key.lower(): value for key, value in hyper.items() if key.isupper()}
    cfg.MODEL.META_ARCHITECTURE = "FCOS"
    node = cfg.MODEL.FCOS
    node.NUM_CLASSES = hyper["num_classes"]
    node.HEAD.NUM_CONVS = hyper.get("num_cls_convs", 4)
    node.HEAD.NORM = hyper.get("norm", "GN")
    node.HEAD.QUALITY = "box"
    node.HEAD.SCALES = hyper.get("use_scale", True)
    node.HEAD.PRIOR_PROB = hyper.get("prior_prob", 0.01)
    node.BOX_CODER.NAME = "relu" if hyper.get("use_relu", True) else "exp_stride"
    node.LOSS.CLS_WEIGHT = hyper.get("loss_weight_cls", 1.0)
    node.LOSS.BOX = hyper.get("loc_loss_type", "giou")
    node.LOSS.IOU_PLUS_ONE = True
    node.LOSS.NORMALIZER = {"fg": "positives"}.get(normalizer := hyper.get("loss_normalizer_cls", "fg"), normalizer)
    if hyper.get("box_quality", "ctrness") == "iou":
        node.LOSS.QUALITY, node.LOSS.BOX_WEIGHTING = "iou", "uniform"
    node.LOSS.FOCAL_ALPHA, node.LOSS.FOCAL_GAMMA = hyper.get("loss_alpha", 0.25), hyper.get("loss_gamma", 2.0)
    node.TEST.THRESHOLD_ON = "product" if hyper.get("thresh_with_ctr") else "class"
    node.TEST.SCORE_THRESH = hyper.get("inference_th_test", 0.05)
    node.TEST.TOPK_PER_LEVEL = hyper.get("pre_nms_topk_test", 1000)
    node.TEST.NMS_THRESH = hyper.get("nms_th", 0.6)
    node.TEST.CLIP_BEFORE_NMS = False
    cfg.TEST.DETECTIONS_PER_IMAGE = hyper.get("post_nms_topk_test", 100)
    cfg.MODEL.ASSIGNERS.FCOS.CENTER_RADIUS = float(hyper.get("pos_radius", 1.5)) if hyper.get("center_sample", True) else 0.0
    cfg.MODEL.ASSIGNERS.FCOS.SIZES_OF_INTEREST = list(hyper.get("sizes_of_interest", [64, 128, 256, 512]))
    _backbone(cfg, hyper)


def _detectron2(cfg: CfgNode, hyper: dict[str, Any], case: GoldenCase) -> None:
    cfg.MODEL.META_ARCHITECTURE = "FCOS"
    node = cfg.MODEL.FCOS
    node.NUM_CLASSES = hyper["num_classes"]
    node.HEAD.NUM_CONVS = hyper.get("head_convs", 4)
    node.HEAD.QUALITY = "box"
    node.HEAD.SCALES = False
    node.BOX_CODER.NAME = "relu"
    node.LOSS.BOX = "giou"
    node.LOSS.BOX_WEIGHTING = "uniform"
    node.LOSS.NORMALIZER = "ema"
    node.LOSS.FOCAL_ALPHA, node.LOSS.FOCAL_GAMMA = hyper.get("focal_alpha", 0.25), hyper.get("focal_gamma", 2.0)
    node.TEST.THRESHOLD_ON = "score"
    node.TEST.SCORE_THRESH = hyper.get("score_thresh", 0.2)
    node.TEST.TOPK_PER_LEVEL = hyper.get("topk_candidates", hyper.get("topk_candidates_per_level", 1000))
    node.TEST.NMS_THRESH = hyper.get("nms_thresh", 0.6)
    node.TEST.CLIP_BEFORE_NMS = False
    cfg.TEST.DETECTIONS_PER_IMAGE = hyper.get("max_detections", 100)
    cfg.MODEL.ASSIGNERS.FCOS.CENTER_RADIUS = float(hyper.get("center_sampling_radius", 1.5))
    cfg.MODEL.ASSIGNERS.FCOS.INCLUSIVE_RANGES = False
    _backbone(cfg, hyper)


def _official_atss(cfg: CfgNode, hyper: dict[str, Any], case: GoldenCase) -> None:
    cfg.MODEL.META_ARCHITECTURE = "ATSS"
    node = cfg.MODEL.ATSS
    node.PLUS_ONE = True
    node.LOSS.BOX_WEIGHT = hyper.get("reg_loss_weight", 2.0)
    focal = hyper.get("focal", {})
    node.LOSS.FOCAL_ALPHA, node.LOSS.FOCAL_GAMMA = focal.get("alpha", 0.25), focal.get("gamma", 2.0)
    _test_settings(cfg, node, hyper)


def _mmdetection(cfg: CfgNode, hyper: dict[str, Any], case: GoldenCase) -> None:
    model = hyper.get("model", {"type": "ATSS" if "atss" in case.set_name else "FCOS", "bbox_head": {}})
    name, head = model["type"], model["bbox_head"]
    cfg.MODEL.META_ARCHITECTURE = name
    node = cfg.MODEL[name]
    node.NUM_CLASSES = head.get("num_classes", 80)
    node.HEAD.NUM_CONVS = head.get("stacked_convs", 4)
    node.HEAD.TOWER_BIAS = head.get("conv_bias", "auto") is True
    node.TEST.SCORE = "product"
    node.TEST.RANK_BY = "class"
    node.TEST.DROP_EMPTY = True
    node.LOSS.BOX = {"IoULoss": "iou", "GIoULoss": "giou"}[head.get("loss_bbox", {"type": "GIoULoss"})["type"]]
    node.LOSS.BOX_WEIGHT = head.get("loss_bbox", {}).get("loss_weight", 1.0)
    focal = head.get("loss_cls", {})
    node.LOSS.FOCAL_ALPHA, node.LOSS.FOCAL_GAMMA = focal.get("alpha", 0.25), focal.get("gamma", 2.0)
    if name == "FCOS":
        node.HEAD.QUALITY = "box" if head.get("centerness_on_reg") else "cls"
        node.BOX_CODER.NAME = "relu" if head.get("norm_on_bbox") else "exp"
        radius = head.get("center_sample_radius", 1.5) if head.get("center_sampling") else 0.0
        cfg.MODEL.ASSIGNERS.FCOS.CENTER_RADIUS = float(radius)
        ranges = hyper.get("rules", {}).get("regress_ranges")
        if ranges:
            cfg.MODEL.ASSIGNERS.FCOS.SIZES_OF_INTEREST = [high for _, high in ranges[:-1]]
    else:
        anchors = head.get("anchor_generator", {})
        node.ANCHORS.OFFSET = float(anchors.get("center_offset", 0.0))
        node.ANCHORS.SCALES = [float(anchors.get("octave_base_scale", 8))]
        node.ANCHORS.RATIOS = [float(ratio) for ratio in anchors.get("ratios", [1.0])]
        node.BOX_CODER.DELTA_CLAMP_BELOW = True
        node.IGNORE_PADDING = True
        node.LOSS.NORMALIZER = "positives_per_image"
        node.LOSS.MIN_BOX_NORMALIZER = 1.0
        cfg.MODEL.ASSIGNERS.ATSS.TOPK = model.get("train_cfg", {}).get("assigner", {}).get("topk", 9)
    _test_settings(cfg, node, hyper | model.get("test_cfg", {}))
    if "backbone" in model:
        _mmdetection_network(cfg, model)


def _mmdetection_network(cfg: CfgNode, model: dict[str, Any]) -> None:
    images, backbone = model["data_preprocessor"], model["backbone"]
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(images["mean"]), list(images["std"])
    cfg.INPUT.FORMAT = "RGB" if images["bgr_to_rgb"] else "BGR"
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = backbone["style"] == "caffe"
    cfg.MODEL.BACKBONE.FREEZE_AT = backbone["frozen_stages"] + 1
    cfg.MODEL.FPN.TOP_BLOCK = {"on_input": "c5", "on_output": "p5"}[model["neck"]["add_extra_convs"]]
    cfg.MODEL.FPN.RELU_BEFORE_P7 = model["neck"].get("relu_before_extra_convs", False)


def _test_settings(cfg: CfgNode, node: CfgNode, settings: dict[str, Any]) -> None:
    """The words of mmdetection's ``test_cfg``, which the cases of the official ATSS use too."""
    node.TEST.SCORE_THRESH = settings.get("score_thr", 0.05)
    node.TEST.TOPK_PER_LEVEL = settings.get("nms_pre", 1000)
    node.TEST.NMS_THRESH = settings.get("nms_iou", settings.get("nms", {}).get("iou_threshold", 0.6))
    cfg.TEST.DETECTIONS_PER_IMAGE = settings.get("max_per_img", 100)


def _backbone(cfg: CfgNode, hyper: dict[str, Any]) -> None:
    if "pixel_mean_bgr" in hyper:
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(hyper["pixel_mean_bgr"]), list(hyper["pixel_std"])
        cfg.MODEL.RESNETS.STRIDE_IN_1X1 = hyper["stride_in_1x1"]
        cfg.MODEL.BACKBONE.FREEZE_AT = hyper["freeze_at"]
        cfg.MODEL.FPN.TOP_BLOCK = hyper["p6_from"]
