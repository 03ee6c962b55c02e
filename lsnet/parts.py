"""From config keys to the parts of LSNet."""

from __future__ import annotations

from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_backbone

from detkit.assigners import Assigner, build_assigner
from detkit.backbones import levels_named
from detkit.config import Conventions, Section
from detkit.dense import DensePostprocessor, PriorGenerator
from detkit.layers import Tower

from .corners import CornerCriterion, CornerVerification
from .criterion import LSCriterion
from .cross_iou import CrossIoULoss, GIoULoss, SmoothL1Loss, VectorLoss
from .head import LSHead, SamplerFactory
from .sampling import LandmarkSampler, LearnedSampler, PyramidSampler
from .several_tasks import build_task
from .tasks import Task

__all__ = ["lsnet_parts_from_config"]

#: GroupNorm in heads has so many groups
GROUPS = 32


def lsnet_parts_from_config(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of :class:`lsnet.detector.LSNet` from ``cfg.MODEL.LSNET``.

    Raises:
        ConfigError: a key has a value that does not exist, or the backbone lacks a level; names key and values.
    """
    node = Section(cfg, "MODEL.LSNET")
    task = build_task(cfg)
    backbone = build_backbone(cfg)
    levels = levels_named(node.IN_FEATURES, backbone.output_shape(), "MODEL.LSNET.IN_FEATURES")
    return {
        "backbone": backbone,
        "head": _build_head(node, task, levels[0].channels, [level.stride for level in levels]),
        "head_in_features": node.IN_FEATURES,
        "task": task,
        "init_assigner": _build_assigner(cfg, "INIT_ASSIGNER"),
        "refine_assigner": _build_assigner(cfg, "ASSIGNER") if node.HEAD.STAGES == 2 else None,
        "criterion": LSCriterion(
            task=task,
            num_classes=node.NUM_CLASSES,
            vector_loss=_build_vector_loss(node, task),
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
        "prior_generator": PriorGenerator(strides=[level.stride for level in levels], offset=node.GRID_OFFSET),
        "ignore_padding": node.IGNORE_PADDING,
        "min_area": node.TEST.MIN_AREA,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "conventions": Conventions.of(cfg),
    }


def _build_assigner(cfg: CfgNode, key: str) -> Assigner:
    return build_assigner(cfg.MODEL.LSNET[key], cfg, key=f"MODEL.LSNET.{key}", takes_weights=False, has_anchors=False)


def _build_head(node: Section, task: Task, in_channels: int, strides: list[int]) -> LSHead:
    for key in ("HEAD.CHANNELS", "CPV.POOLED_CHANNELS"):
        if node.HEAD.NORM == "GN" and node.value(key) % GROUPS:
            raise node.refusal(key, f"divisible by {GROUPS}, the groups of MODEL.LSNET.HEAD.NORM 'GN'")
    tower = _tower(node, node.HEAD.CHANNELS, node.HEAD.NUM_CONVS)
    return LSHead(
        task=task,
        num_classes=node.NUM_CLASSES,
        in_channels=in_channels,
        tower=tower,
        two_stages=node.HEAD.STAGES == 2,
        sampler=_sampler(node, strides),
        gradient_share=node.HEAD.GRADIENT_SHARE,
        prior_prob=node.HEAD.PRIOR_PROB,
        start_size=node.HEAD.START_SIZE,
        verification=_build_verification(node, tower.out_channels(in_channels)) if node.CPV.ENABLED else None,
    )


def _tower(node: Section, channels: int, num_convs: int) -> Tower:
    deformable = num_convs if node.HEAD.DEFORMABLE_TOWERS else 0
    return Tower(num_convs=num_convs, channels=channels, norm=node.HEAD.NORM, deformable=range(deformable))


def _sampler(node: Section, strides: list[int]) -> SamplerFactory | None:
    if node.HEAD.FEATURES == "pyramid" and node.HEAD.STAGES == 2 and len(strides) < PyramidSampler.num_sources:
        raise node.refusal("IN_FEATURES", f"a list of at least {PyramidSampler.num_sources} levels with HEAD.FEATURES 'pyramid'")
    samplers: dict[str, SamplerFactory | None] = {
        "point": None,
        "landmark": LandmarkSampler,
        "pyramid": partial(PyramidSampler, strides=strides, scales=node.HEAD.LEVEL_SCALES),
        "learned": LearnedSampler,
    }
    return node.choice("HEAD.FEATURES", samplers)


def _build_verification(node: Section, channels: int) -> CornerVerification:
    tower = _tower(node, channels, node.CPV.NUM_CONVS)
    return CornerVerification(tower=tower, num_classes=node.NUM_CLASSES, pooled_channels=node.CPV.POOLED_CHANNELS)


def _build_vector_loss(node: Section, task: Task) -> VectorLoss:
    if node.LOSS.VECTOR not in task.vector_losses:
        fitting = " or ".join(map(repr, task.vector_losses))
        raise node.refusal("LOSS.VECTOR", f"{fitting} with TASKS {node.TASKS}: from others not all of their landmarks learn their places")
    losses: dict[str, VectorLoss] = {
        "cross_iou": CrossIoULoss(form=node.LOSS.CROSS_IOU, alpha=node.LOSS.ALPHA),
        "smooth_l1": SmoothL1Loss(beta=node.LOSS.SMOOTH_L1_BETA, alpha=node.LOSS.ALPHA),
        "giou": GIoULoss(),
    }
    return node.choice("LOSS.VECTOR", losses)
