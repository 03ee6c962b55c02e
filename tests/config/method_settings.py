"""What a config of ours says about its method: head, assigner, loss and test, in the words of ``published_settings.json``."""

from __future__ import annotations

import math
from typing import Any

from detectron2.config import CfgNode

__all__ = ["dense_settings", "lsnet_settings", "proposal_settings", "sparse_rcnn_settings"]

_POSITIVES = "mean positives per GPU, at least 1"
_PER_IMAGE = "mean over GPUs of the positives, an image counting as one at least"
_AVERAGE = "moving average of positives (momentum 0.9, start 300), averaged over GPUs"


def dense_settings(cfg: CfgNode) -> dict[str, Any]:
    node = cfg.MODEL[cfg.MODEL.META_ARCHITECTURE.upper()]
    return {
        "head": _dense_head(node),
        "assigner": _dense_assigner(cfg, node),
        "loss": _dense_loss(cfg, node),
        "test": _dense_test(node),
    }


def _dense_head(node: CfgNode) -> dict[str, Any]:
    head, tood = node.HEAD, node.HEAD.NAME == "TOODHead"
    uses_anchors = tood or node.BOX_CODER.NAME == "delta"
    return {
        "num_convs_cls": 0 if tood else head.NUM_CONVS,
        "num_convs_box": 0 if tood else head.NUM_CONVS,
        "num_convs_shared": head.NUM_CONVS if tood else head.NUM_SHARED_CONVS,
        "channels": head.CHANNELS,
        "norm": head.NORM,
        "norm_per_level": True if head.NORM in ("BN", "SyncBN") else None,
        "conv_bias": head.TOWER_BIAS,
        "dcn": _deformable(head),
        "quality_branch_on": None if head.QUALITY == "none" else head.QUALITY,
        "scales": head.SCALES,
        "prior_prob": head.PRIOR_PROB,
        "box_bias": None if tood else head.BOX_BIAS,
        "num_classes": node.NUM_CLASSES,
        "box_coding": _box_coding(node),
        "refine": head.NAME == "RefiningHead",
        "anchors": {
            "offset_in_cell": node.ANCHORS.OFFSET,
            "scales": list(node.ANCHORS.SCALES) if uses_anchors else None,
            "ratios": list(node.ANCHORS.RATIOS) if uses_anchors else None,
        },
        "corners_plus_one": node.PLUS_ONE,
        "ignore_padding": node.IGNORE_PADDING,
    }


def _deformable(head: CfgNode) -> str:
    if head.DCN_ON_FIRST_CONVS:
        return f"first {head.DCN_ON_FIRST_CONVS} convolutions (DCNv2, 4 groups of offsets)"
    return "last convolution of each tower" if head.DCN_ON_LAST_CONV else "none"


def _box_coding(node: CfgNode) -> str:
    name = node.BOX_CODER.NAME
    if name == "linear" and node.HEAD.COARSE_BOX == "anchor":
        return "delta, weights 10 10 5 5, log-size clamped at both ends at ln(1000/16)"
    if name == "delta":
        weights = " ".join(f"{weight:g}" for weight in node.BOX_CODER.DELTA_WEIGHTS)
        clamp = "at both ends" if node.BOX_CODER.DELTA_CLAMP_BELOW else "above"
        return f"delta, weights {weights}, log-size clamped {clamp} at ln(1000/16)"
    return {"exp": "exp, pixels", "relu": "relu, strides (targets normalised)", "linear": "exp, strides (distances)"}[name]


def _dense_assigner(cfg: CfgNode, node: CfgNode) -> dict[str, Any]:
    keys = cfg.MODEL.ASSIGNERS
    if node.ASSIGNER == "FCOSAssigner":
        return {
            "name": "FCOS ranges",
            "sizes_of_interest": list(keys.FCOS.SIZES_OF_INTEREST),
            "center_sampling_radius": keys.FCOS.CENTER_RADIUS,
            "ranges_inclusive": keys.FCOS.INCLUSIVE_RANGES,
        }
    if node.ASSIGNER == "ATSSAssigner":
        return {"name": "ATSS", "topk": keys.ATSS.TOPK}
    if node.ASSIGNER == "IoUAssigner":
        return {"name": "IoU", "thresholds": list(keys.IOU.THRESHOLDS), "allow_low_quality": keys.IOU.ALLOW_LOW_QUALITY}
    if node.ASSIGNER == "TaskAlignedAssigner":
        own = keys.TASK_ALIGNED
        return {"name": "task-aligned", "topk": own.TOPK, "alpha": own.ALPHA, "beta": own.BETA, **dict.fromkeys(_OF_FIRST_EPOCHS)}
    if node.ASSIGNER == "DWAssigner":
        return {
            "name": "dual weighting",
            "soft_prior": keys.DW.PRIOR == "soft",
            "prior_sigma": keys.DW.PRIOR_SIGMA,
            "beta_loc": keys.DW.BETA,
            "mu": keys.DW.MU,
            "mu_normaliser": keys.DW.MU_NORMALIZER,
            "alpha": keys.DW.GAMMA1,
            "gamma2": keys.DW.GAMMA2,
            "candidates": {"inside": "inside the box"}.get(keys.DW.BAG, keys.DW.BAG),
        }
    return {"name": node.ASSIGNER}


#: what mmdetection's TOOD does in its first epochs, and ours never
_OF_FIRST_EPOCHS = ("initial_assigner", "initial_epochs", "initial_topk")


def _dense_loss(cfg: CfgNode, node: CfgNode) -> dict[str, Any]:
    loss, keys = node.LOSS, cfg.MODEL.ASSIGNERS
    if node.ASSIGNER == "DWAssigner":
        return {
            "cls": {
                "type": "binary cross-entropy on class * centerness",
                "factor": keys.DW.FACTOR,
                "normaliser": "mean objects per GPU, at least 1",
            },
            "box": {"type": loss.BOX, "weight": loss.BOX_WEIGHT, "factor": keys.DW.FACTOR, "multiplied_by": keys.DW.BETA},
            "negative": {
                "weight": {"full": "P_neg * s^2"}.get(keys.DW.NEGATIVE, keys.DW.NEGATIVE),
                "normaliser": "mean over GPUs of sum(1 - P_neg), at least 1",
            },
        }
    if node.ASSIGNER == "TaskAlignedAssigner":
        own = keys.TASK_ALIGNED
        return {
            "cls": {"type": "quality focal", "beta": own.GAMMA, "weight": 1.0},
            "box": {"type": loss.BOX, "weight": own.BOX_FACTOR, "weighting": "alignment"},
            "initial_cls": dict.fromkeys(("alpha", "gamma", "type", "weight")),
        }
    if node.ASSIGNER == "AutoAssignAssigner":
        return {"box": {"type": loss.BOX, "weight": keys.AUTOASSIGN.BOX_SHARPNESS}}
    centerness = loss.BOX_WEIGHTING == "centerness"
    average = _AVERAGE if loss.NORMALIZER == "ema" else None
    of_classes = average or (_PER_IMAGE if loss.NORMALIZER == "positives_per_image" else _POSITIVES)
    least = loss.MIN_BOX_NORMALIZER if loss.MIN_BOX_NORMALIZER > 1e-6 else None
    return {
        "cls": {"type": "focal", "alpha": loss.FOCAL_ALPHA, "gamma": loss.FOCAL_GAMMA, "weight": loss.CLS_WEIGHT, "normaliser": of_classes},
        "box": {
            "type": loss.BOX,
            "beta": loss.SMOOTH_L1_BETA,
            "weight": loss.BOX_WEIGHT,
            "weighting": loss.BOX_WEIGHTING,
            "iou_plus_one": loss.IOU_PLUS_ONE,
            "normaliser": average or ("mean sum of centerness targets per GPU" if centerness else _POSITIVES),
            "least_normaliser": least,
        },
        "quality": {"target": loss.QUALITY, "weight": loss.QUALITY_WEIGHT, "normaliser": of_classes},
    }


def _dense_test(node: CfgNode) -> dict[str, Any]:
    test = node.TEST
    score = {
        "sqrt_product": f"sqrt(class * {node.LOSS.QUALITY})",
        "product": f"class * {node.LOSS.QUALITY}",
        "class": "class probability (aligned)" if node.HEAD.NAME == "TOODHead" else "class probability",
    }
    return {
        "score": score[test.SCORE],
        "score_threshold": test.SCORE_THRESH,
        "threshold_on": {"class": "class probability"}.get(test.THRESHOLD_ON, test.THRESHOLD_ON),
        "rank_by": test.RANK_BY if node.HEAD.QUALITY != "none" else "class",
        "topk_per_level": test.TOPK_PER_LEVEL,
        "nms_threshold": test.NMS_THRESH,
        "nms_kind": "none" if test.NMS_THRESH is None else "per class",
        "clip_before_nms": test.CLIP_BEFORE_NMS,
        "drop_empty": test.DROP_EMPTY,
    }


def sparse_rcnn_settings(cfg: CfgNode) -> dict[str, Any]:
    node, head, cost = cfg.MODEL.SPARSE_RCNN, cfg.MODEL.SPARSE_RCNN.HEAD, cfg.MODEL.ASSIGNERS.HUNGARIAN
    weights = " ".join(f"{weight:g}" for weight in node.BOX_CODER.DELTA_WEIGHTS)
    bound = f"ln({16 * math.exp(node.BOX_CODER.SCALE_CLAMP):.0f}/16)"
    return {
        "head": {
            "num_classes": node.NUM_CLASSES,
            "num_proposals": node.NUM_PROPOSALS,
            "num_stages": node.NUM_STAGES,
            "hidden": cfg.MODEL.FPN.OUT_CHANNELS,
            "attention_heads": head.NUM_ATTENTION_HEADS,
            "ffn": head.FFN_CHANNELS,
            "dropout": head.DROPOUT,
            "cls_layers": head.NUM_CLS_LAYERS,
            "box_layers": head.NUM_BOX_LAYERS,
            "dynamic_layers": {"dynamic": 2}.get(head.INTERACTION, 0),
            "dynamic_channels": head.DYNAMIC_CHANNELS,
            "pooler": {
                "type": node.POOLER.TYPE,
                "resolution": node.POOLER.RESOLUTION,
                "sampling_ratio": node.POOLER.SAMPLING_RATIO,
            },
            "classifier": head.CLASSIFIER,
            "prior_prob": head.PRIOR_PROB,
            "proposal_init": {"image": "whole image"}.get(node.PROPOSAL_INIT, node.PROPOSAL_INIT),
            "box_coding": f"delta, weights {weights}, log-size clamped "
            + (f"at both ends at {bound}" if node.BOX_CODER.DELTA_CLAMP_BELOW else f"above at {bound}"),
            "scale_clamp": node.BOX_CODER.SCALE_CLAMP,
            "clamp_below": node.BOX_CODER.DELTA_CLAMP_BELOW,
        },
        "assigner": {
            "name": {"HungarianAssigner": "Hungarian"}.get(node.ASSIGNER, node.ASSIGNER),
            "cost_class": cost.CLASS_WEIGHT,
            "cost_l1": cost.L1_WEIGHT,
            "cost_giou": cost.GIOU_WEIGHT,
            "class_cost": cost.CLASS_COST,
            "focal_alpha": cost.FOCAL_ALPHA,
            "focal_gamma": cost.FOCAL_GAMMA,
            "eps": cost.EPS,
        },
        "loss": {
            "cls": {"type": "focal", "alpha": node.LOSS.FOCAL_ALPHA, "gamma": node.LOSS.FOCAL_GAMMA, "weight": node.LOSS.CLASS_WEIGHT},
            "l1": {"weight": node.LOSS.L1_WEIGHT},
            "giou": {"weight": node.LOSS.GIOU_WEIGHT},
            "deep_supervision": True,
            "normaliser": {"objects": "mean objects per GPU, at least 1", "matches": "mean matches per GPU"}[node.LOSS.NORMALIZER],
        },
        "test": {"score": "class probability", "rank_by": "class", "nms_kind": "none"}
        | dict.fromkeys(("score_threshold", "threshold_on", "topk_per_level", "nms_threshold", "clip_before_nms", "drop_empty")),
    }


def lsnet_settings(cfg: CfgNode) -> dict[str, Any]:
    node, head, first = cfg.MODEL.LSNET, cfg.MODEL.LSNET.HEAD, cfg.MODEL.ASSIGNERS.CENTROID
    (learned,) = node.TASKS
    pose = learned == "pose"
    task = {"pose": {"object": "pose_bbox", "keypoints": "pose_kbox"}[node.POSE_BOX]}.get(learned, learned)
    return {
        "head": {
            "task": task,
            "num_vectors": {"bbox": 4, "segm": node.CONTOUR_LANDMARKS, "pose": node.NUM_KEYPOINTS}[learned],
            "num_classes": node.NUM_CLASSES,
            "num_convs_cls": head.NUM_CONVS,
            "num_convs_box": head.NUM_CONVS,
            "channels": head.CHANNELS,
            "norm": head.NORM,
            "dcn": "all convolutions of the towers" if head.DEFORMABLE_TOWERS else "none",
            "num_kernel_points": 9,
            "gradient_share": head.GRADIENT_SHARE,
            "cpv": node.CPV.ENABLED,
            "cpv_channels": node.CPV.POOLED_CHANNELS,
            "cpv_convs": node.CPV.NUM_CONVS,
            "grid_offset": node.GRID_OFFSET,
        },
        "assigner": {
            "first_stage": {"CentroidAssigner": "centroid"}[node.INIT_ASSIGNER],
            "first_scale": first.SCALE,
            "first_points": first.NUM_POINTS,
            "first_middle": first.MIDDLE,
            "second_stage": {"PredictedATSSAssigner": "ATSS on first-stage boxes"}[node.ASSIGNER],
            "second_topk": cfg.MODEL.ASSIGNERS.ATSS.TOPK,
        },
        "loss": {
            "vector": node.LOSS.VECTOR,
            "cross_iou": node.LOSS.CROSS_IOU,
            "alpha": node.LOSS.ALPHA,
            "init_weight": node.LOSS.INIT_WEIGHT,
            "refine_weight": node.LOSS.REFINE_WEIGHT,
            "box_factor": node.LOSS.BOX_FACTOR if task == "pose_bbox" else None,
            "focal_alpha": node.LOSS.FOCAL_ALPHA,
            "focal_gamma": node.LOSS.FOCAL_GAMMA,
        },
        "test": {
            "score": "class probability",
            "score_threshold": node.TEST.SCORE_THRESH,
            "threshold_on": "class probability",
            # the best class of a location chooses; with one class it is the class
            "rank_by": "class (best of a location)" if pose and node.NUM_CLASSES == 1 else "class",
            "topk_per_level": node.TEST.TOPK_PER_LEVEL,
            "nms_threshold": node.TEST.NMS_THRESH,
            "nms_kind": "per class",
            "min_area": node.TEST.MIN_AREA,
        },
    }


def proposal_settings(cfg: CfgNode) -> dict[str, Any]:
    node = cfg.MODEL.RPN
    return {
        "head": {
            "norm": {"GNRPNHead": "GN", "StandardRPNHead": ""}[node.HEAD_NAME],
            "anchors": {
                "offset_in_cell": cfg.MODEL.ANCHOR_GENERATOR.OFFSET,
                "sizes": [list(sizes) for sizes in cfg.MODEL.ANCHOR_GENERATOR.SIZES],
                "ratios": list(cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS[0]),
            },
        },
        "assigner": {"name": "IoU", "thresholds": list(node.IOU_THRESHOLDS)},
        "loss": {"box": node.BBOX_REG_LOSS_TYPE},
        "test": {
            "nms_threshold": node.NMS_THRESH,
            "nms_kind": "per class",
            "pre_nms_topk_train": node.PRE_NMS_TOPK_TRAIN,
            "pre_nms_topk": node.PRE_NMS_TOPK_TEST,
            "post_nms_topk_train": node.POST_NMS_TOPK_TRAIN,
            "post_nms_topk": node.POST_NMS_TOPK_TEST,
        },
    }
