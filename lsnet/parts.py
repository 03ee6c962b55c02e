"""From config keys to the parts of LSNet."""

from __future__ import annotations

from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_backbone

from detkit.assigners import Assigner, build_assigner
from detkit.backbones import levels_named
from detkit.config import ConfigError, check_ranges
from detkit.dense.postprocess import DensePostprocessor

from .corner_targets import CornerCriterion
from .corners import CornerVerification
from .criterion import LSCriterion
from .head import LSHead, SamplerFactory
from .losses import CrossIoULoss, GIoULoss, SmoothL1Loss, VectorLoss
from .sampling import LandmarkSampler, LearnedSampler, PyramidSampler
from .tasks import Task, build_task

__all__ = ["lsnet_parts_from_config"]

_RANGES = {
    "NUM_CLASSES": "[1, inf)",
    "GRID_OFFSET": "[0, 1]",
    "HEAD.NUM_CONVS": "[0, inf)",
    "HEAD.GRADIENT_SHARE": "[0, 1]",
    "HEAD.PRIOR_PROB": "(0, 1)",
    "HEAD.START_SIZE": "[0, inf)",
    "CPV.NUM_CONVS": "[0, inf)",
    "LOSS.ALPHA": "[0, inf)",
    "LOSS.SMOOTH_L1_BETA": "[0, inf)",
    "TEST.SCORE_THRESH": "[0, 1]",
    "TEST.TOPK_PER_LEVEL": "[1, inf)",
    "TEST.NMS_THRESH": "[0, 1]",
    "TEST.MIN_AREA": "[0, inf)",
}


def lsnet_parts_from_config(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of :class:`lsnet.detector.LSNet` from ``cfg.MODEL.LSNET``.

    Raises:
        ConfigError: a key has a value that does not exist, or the backbone lacks a level; names key and values.
    """
    node = cfg.MODEL.LSNET
    check_ranges(node, "MODEL.LSNET", _RANGES)
    task = build_task(cfg)
    backbone = build_backbone(cfg)
    levels = levels_named(node.IN_FEATURES, backbone.output_shape(), "MODEL.LSNET.IN_FEATURES")
    if node.HEAD.STAGES not in (1, 2):
        raise ConfigError(f"MODEL.LSNET.HEAD.STAGES is 1 or 2, not {node.HEAD.STAGES}.")
    two_stages = node.HEAD.STAGES == 2
    return {
        "backbone": backbone,
        "head": _build_head(node, task, levels[0].channels, [level.stride for level in levels]),
        "head_in_features": node.IN_FEATURES,
        "task": task,
        "init_assigner": _build_assigner(cfg, "INIT_ASSIGNER"),
        "refine_assigner": _build_assigner(cfg, "ASSIGNER") if two_stages else None,
        "criterion": LSCriterion(
            task=task,
            num_classes=node.NUM_CLASSES,
            vector_loss=_build_vector_loss(node.LOSS, task),
            init_weight=node.LOSS.INIT_WEIGHT,
            refine_weight=node.LOSS.REFINE_WEIGHT,
            box_factor=node.LOSS.BOX_FACTOR,
            focal_alpha=node.LOSS.FOCAL_ALPHA,
            focal_gamma=node.LOSS.FOCAL_GAMMA,
        ),
        "postprocessor": DensePostprocessor(
            score="class",
            rank_by="class",
            score_thresh=node.TEST.SCORE_THRESH,
            topk_per_level=node.TEST.TOPK_PER_LEVEL,
            nms_thresh=node.TEST.NMS_THRESH,
            max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
        ),
        "corner_criterion": CornerCriterion(num_classes=node.NUM_CLASSES) if node.CPV.ENABLED else None,
        "grid_offset": node.GRID_OFFSET,
        "ignore_padding": node.IGNORE_PADDING,
        "min_area": node.TEST.MIN_AREA,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }


def _build_assigner(cfg: CfgNode, key: str) -> Assigner:
    return build_assigner(cfg.MODEL.LSNET[key], cfg, key=f"MODEL.LSNET.{key}", takes_weights=False, has_anchors=False)


def _build_head(node: CfgNode, task: Task, in_channels: int, strides: list[int]) -> LSHead:
    return LSHead(
        task=task,
        num_classes=node.NUM_CLASSES,
        in_channels=in_channels,
        channels=node.HEAD.CHANNELS,
        num_convs=node.HEAD.NUM_CONVS,
        norm=node.HEAD.NORM,
        deformable_towers=node.HEAD.DEFORMABLE_TOWERS,
        two_stages=node.HEAD.STAGES == 2,
        sampler=_sampler(node.HEAD, strides),
        gradient_share=node.HEAD.GRADIENT_SHARE,
        prior_prob=node.HEAD.PRIOR_PROB,
        start_size=node.HEAD.START_SIZE,
        verification=_build_verification(node, task) if node.CPV.ENABLED else None,
    )


def _sampler(head: CfgNode, strides: list[int]) -> SamplerFactory | None:
    samplers: dict[str, SamplerFactory | None] = {
        "point": None,
        "landmark": LandmarkSampler,
        "pyramid": partial(PyramidSampler, strides=strides, scales=head.LEVEL_SCALES),
        "learned": LearnedSampler,
    }
    if head.LEVEL_SCALES not in ("official", "ideal"):
        raise ConfigError(f"MODEL.LSNET.HEAD.LEVEL_SCALES is 'official' or 'ideal', not '{head.LEVEL_SCALES}'.")
    if head.FEATURES not in samplers:
        raise ConfigError(f"MODEL.LSNET.HEAD.FEATURES is one of {', '.join(samplers)}, not '{head.FEATURES}'.")
    return samplers[head.FEATURES]


def _build_verification(node: CfgNode, task: Task) -> CornerVerification:
    if task.name != "bbox" or node.HEAD.STAGES != 2:
        raise ConfigError("Corner point verification (MODEL.LSNET.CPV) works on boxes in the second stage: TASK 'bbox', HEAD.STAGES 2.")
    return CornerVerification(
        channels=node.HEAD.CHANNELS,
        num_classes=node.NUM_CLASSES,
        norm=node.HEAD.NORM,
        pooled_channels=node.CPV.POOLED_CHANNELS,
        num_convs=node.CPV.NUM_CONVS,
        deformable=node.HEAD.DEFORMABLE_TOWERS,
    )


def _build_vector_loss(loss: CfgNode, task: Task) -> VectorLoss:
    if loss.VECTOR == "giou" and task.name == "pose":
        raise ConfigError(
            "MODEL.LSNET.LOSS.VECTOR 'giou' compares boxes and teaches no keypoint its place: take 'cross_iou' or 'smooth_l1'."
        )
    if loss.VECTOR == "cross_iou":
        return CrossIoULoss(form=loss.CROSS_IOU, alpha=loss.ALPHA)
    if loss.VECTOR == "smooth_l1":
        return SmoothL1Loss(beta=loss.SMOOTH_L1_BETA, alpha=loss.ALPHA)
    if loss.VECTOR == "giou":
        return GIoULoss()
    raise ConfigError(f"MODEL.LSNET.LOSS.VECTOR is 'cross_iou', 'smooth_l1' or 'giou', not '{loss.VECTOR}'.")
