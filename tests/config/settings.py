"""What a config of ours says, in the words of ``published_settings.json``: how published codes train and test.

:func:`settings_of` gives the settings by dotted key; :func:`published` those of a published config. Where a key of the file is not
among ours, the comparison fails.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from .pretrained import kind_of

__all__ = ["Published", "commits", "published", "repositories", "settings_of", "source_of"]

FACTS = Path(__file__).parent / "published_settings.json"
MARK = "# settings: "

#: networks of torchvision and timm: name, depth, groups, width, convolution that strides, and their norms where they are no batch norms
_EXTRACTORS: dict[str, dict[str, Any]] = {
    "mobilenet_v2": {"name": "MobileNetV2"},
    "hrnet_w32": {"name": "HRNet-W32"},
    "dla34": {"name": "DLA-34"},
    "res2net101d": {"name": "Res2Net", "depth": 101, "groups": 1, "width_per_group": 26, "stride_in": "3x3"},
    "pvt_v2_b2": {"name": "PVT v2 b2", "norm_statistics": "none (LayerNorm)", "norm_affine": "trained"},
}
_ABOVE_FPN = {"p5": "p5", "c5": "c5", "pool": "pooling of p5", "none": None}
_POSITIVES = "mean positives per GPU, at least 1"
_PER_IMAGE = "mean over GPUs of the positives, an image counting as one at least"
_AVERAGE = "moving average of positives (momentum 0.9, start 300), averaged over GPUs"


class Published(dict):
    """The settings of a published config by dotted key. ``weights``: what was published for it, with AP and split."""

    weights: list[dict[str, Any]]


def source_of(path: Path) -> str | None:
    """The published config that a config of ours claims to train and test as: ``repository:path``; None where its header names none."""
    lines = [line.removeprefix(MARK).strip() for line in path.read_text().splitlines() if line.startswith(MARK)]
    assert len(lines) <= 1, f"{path}: more than one line '{MARK}...'"
    return lines[0] if lines else None


@cache
def repositories() -> dict[str, Any]:
    return json.loads(FACTS.read_text())["repositories"]


@cache
def commits() -> dict[str, str]:
    """The commit of each repository at which its configs were read."""
    return json.loads(FACTS.read_text())["commits"]


def published(source: str) -> Published:
    """The settings of ``repository:path``."""
    repository, _, path = source.partition(":")
    group = repositories()[repository]
    entry = group["configs"][path]
    settings = Published(group["common"] | entry["settings"])
    for key in entry.get("absent", ()):
        settings.pop(key, None)
    settings.weights = entry.get("weights", [])
    return settings


def settings_of(cfg: CfgNode) -> dict[str, Any]:
    """The settings of a resolved config of ours, by dotted key."""
    method = {"LSNet": _lsnet, "SparseRCNN": _sparse_rcnn, "ProposalNetwork": _proposals}.get(cfg.MODEL.META_ARCHITECTURE, _dense)
    parts = {
        "backbone": _backbone(cfg),
        "fpn": _fpn(cfg),
        "optimizer": _optimizer(cfg),
        "schedule": _schedule(cfg),
        "input": _input(cfg),
        **method(cfg),
    }
    parts["test"] |= {
        "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
    }
    if cfg.TEST.AUG.ENABLED:
        parts["multi_scale_test"] = _multi_scale_test(cfg, parts["test"])
    return dict(_flat(parts))


def _flat(tree: dict[str, Any], prefix: str = "") -> Any:
    for key, value in tree.items():
        if isinstance(value, dict) and key != "area_ranges":
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _backbone(cfg: CfgNode) -> dict[str, Any]:
    node, resnet = cfg.MODEL.BACKBONE, cfg.MODEL.RESNETS
    of_library = cfg.MODEL.FPN.BOTTOM_UP in ("build_timm_backbone", "build_torchvision_backbone")
    network: dict[str, Any] = dict.fromkeys(("depth", "groups", "width_per_group", "stride_in"))
    if of_library:
        network |= _EXTRACTORS[node.ARCH]
    else:
        network |= {
            "name": "ResNet" if resnet.NUM_GROUPS == 1 else "ResNeXt",
            "depth": resnet.DEPTH,
            "groups": resnet.NUM_GROUPS,
            "width_per_group": resnet.WIDTH_PER_GROUP,
            "stride_in": "1x1" if resnet.STRIDE_IN_1X1 else "3x3",
        }
    norm = node.NORM if of_library else resnet.NORM
    statistics = {"FrozenBN": "fixed", "SyncBN": "batch, synchronised", "BN": "batch"}[norm]
    deformable = [name for name, on in zip(("res2", "res3", "res4", "res5"), resnet.DEFORM_ON_PER_STAGE, strict=True) if on]
    return {
        "norm_statistics": statistics,
        "norm_affine": "fixed" if norm == "FrozenBN" and not node.TRAIN_AFFINE else "trained",
        "dcn_stages": deformable,
        "dcn_version": (2 if resnet.DEFORM_MODULATED else 1) if deformable else None,
        "frozen": ["stem", "res2", "res3", "res4", "res5"][: node.FREEZE_AT],
        "pretrained_kind": kind_of(cfg),
        **network,
    }


def _fpn(cfg: CfgNode) -> dict[str, Any]:
    node = cfg.MODEL.FPN
    of_hrnet = cfg.MODEL.BACKBONE.NAME == "build_hrfpn_backbone"
    first, count = int(node.IN_FEATURES[0][-1]), len(node.IN_FEATURES)
    extra = {"p5": 2, "c5": 2, "pool": 1, "none": 0}[node.TOP_BLOCK]
    first, count = (first + 1, 5) if of_hrnet else (first, count + extra)
    has_p7 = node.TOP_BLOCK in ("p5", "c5") and not of_hrnet
    names = [name.replace("res", "level") for name in node.IN_FEATURES] if cfg.MODEL.BACKBONE.ARCH == "dla34" else list(node.IN_FEATURES)
    return {
        "in_levels": names,
        "out_levels": [f"p{first + i}" for i in range(count)],
        "channels": node.OUT_CHANNELS,
        "extra_levels_from": None if of_hrnet else _ABOVE_FPN[node.TOP_BLOCK],
        "relu_before_p7": node.RELU_BEFORE_P7 if has_p7 else None,
        "norm": node.NORM,
        "extra_levels_norm": node.TOP_BLOCK_NORM,
    }


def _optimizer(cfg: CfgNode) -> dict[str, Any]:
    node = cfg.SOLVER
    decay = node.WEIGHT_DECAY
    of_norms = decay if node.WEIGHT_DECAY_NORM is None else node.WEIGHT_DECAY_NORM
    return {
        "type": node.OPTIMIZER,
        "base_lr": node.BASE_LR,
        "momentum": node.MOMENTUM if node.OPTIMIZER == "SGD" else None,
        "weight_decay": decay,
        "lr_factor_bias": node.BIAS_LR_FACTOR,
        "lr_factor_norm_bias": node.BIAS_LR_FACTOR if node.BIAS_LR_FACTOR_OF_NORMS else 1.0,
        "weight_decay_bias": decay if node.WEIGHT_DECAY_BIAS is None else node.WEIGHT_DECAY_BIAS,
        "weight_decay_norm_weight": of_norms,
        "weight_decay_norm_bias": of_norms if node.WEIGHT_DECAY_BIAS is None else node.WEIGHT_DECAY_BIAS,
    }


def _schedule(cfg: CfgNode) -> dict[str, Any]:
    node, clip = cfg.SOLVER, cfg.SOLVER.CLIP_GRADIENTS
    kinds = {"full_model": "norm of all gradients", "norm": "norm of each gradient", "value": "value"}
    return {
        "images_per_batch": node.IMS_PER_BATCH,
        "images_seen": node.MAX_ITER * node.IMS_PER_BATCH,
        "lr_drops_after_images": [step * node.IMS_PER_BATCH for step in node.STEPS],
        "lr_gamma": node.GAMMA,
        "warmup_kind": node.WARMUP_METHOD,
        "warmup_factor": node.WARMUP_FACTOR,
        "warmup_iterations": node.WARMUP_ITERS,
        "clip_kind": kinds[clip.CLIP_TYPE] if clip.ENABLED else None,
        "clip_value": clip.CLIP_VALUE if clip.ENABLED else None,
        "amp": node.AMP.ENABLED,
    }


def _input(cfg: CfgNode) -> dict[str, Any]:
    node = cfg.INPUT
    sizes = list(node.MIN_SIZE_TRAIN)
    crop: Any = None
    if node.MAPPER == "CropMapper":
        crop = {
            "probability": 0.5,
            "resize_shorter_side_to": list(node.CROP.MIN_SIZES),
            "resize_max_size": node.CROP.MAX_SIZE or None,
            "type": node.CROP.TYPE,
            "size": list(node.CROP.SIZE),
            "then": "resize to a train size",
        }
    return {
        "format": node.FORMAT,
        "mean": list(cfg.MODEL.PIXEL_MEAN),
        "std": list(cfg.MODEL.PIXEL_STD),
        "train_min_sizes": sizes,
        "train_sampling": "single" if len(sizes) == 1 else node.MIN_SIZE_TRAIN_SAMPLING,
        "train_max_size": node.MAX_SIZE_TRAIN,
        "crop": crop,
        "filter_images_without_annotations": cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        "filter_images_smaller_than": None,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "train_set": list(cfg.DATASETS.TRAIN),
        "test_set": list(cfg.DATASETS.TEST),
    }


def _multi_scale_test(cfg: CfgNode, test: dict[str, Any]) -> dict[str, Any]:
    node = cfg.TEST.AUG
    ranges = [list(entry) for entry in node.AREA_RANGES] or [None] * len(node.MIN_SIZES)
    at_each_size = cfg.TEST.DETECTIONS_PER_IMAGE
    return {
        "area_ranges": dict(zip(map(str, node.MIN_SIZES), ranges, strict=True)),
        "area_unit": {"input": "pixels of the resized image", "original": "pixels of the image"}[node.AREA_UNIT]
        if node.AREA_RANGES
        else None,
        "area_ends_included": True if node.AREA_RANGES else None,
        "max_size": node.MAX_SIZE,
        "max_size_of_base": node.MAX_SIZE if 800 in node.MIN_SIZES else None,
        "max_size_below_800": node.MAX_SIZE,
        "flip": node.FLIP,
        "flip_of_base": node.FLIP if 800 in node.MIN_SIZES else None,
        "merge": node.MERGE,
        "merge_threshold": node.MERGE_THRESH,
        "soft_vote_min_score": node.SOFT_VOTE_MIN_SCORE if node.MERGE == "soft_vote" else None,
        "nms_at_each_size": test["nms_kind"] != "none",
        "max_detections_at_each_size": at_each_size,
        "max_detections": node.MAX_DETECTIONS or at_each_size,
    }


def _dense(cfg: CfgNode) -> dict[str, Any]:
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
        "nms_kind": "per class",
        "clip_before_nms": test.CLIP_BEFORE_NMS,
        "drop_empty": test.DROP_EMPTY,
    }


def _sparse_rcnn(cfg: CfgNode) -> dict[str, Any]:
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


def _lsnet(cfg: CfgNode) -> dict[str, Any]:
    node, head, first = cfg.MODEL.LSNET, cfg.MODEL.LSNET.HEAD, cfg.MODEL.ASSIGNERS.CENTROID
    pose = node.TASK == "pose"
    task = {"pose": {"object": "pose_bbox", "keypoints": "pose_kbox"}[node.POSE_BOX]}.get(node.TASK, node.TASK)
    return {
        "head": {
            "task": task,
            "num_vectors": {"bbox": 4, "segm": node.CONTOUR_LANDMARKS, "pose": node.NUM_KEYPOINTS}[node.TASK],
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


def _proposals(cfg: CfgNode) -> dict[str, Any]:
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
