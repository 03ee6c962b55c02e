"""From config keys to the parts of a dense detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from fvcore.nn import smooth_l1_loss

from detkit.assigners import Assigner, build_assigner
from detkit.backbones import levels_named
from detkit.dense.criteria import (
    AllPriorsNormalizer,
    BoxTerm,
    DecodedBoxLoss,
    DenseCriterion,
    EncodedBoxLoss,
    IoUQuality,
    MovingAverageNormalizer,
    MovingClassNormalizer,
    Normalizer,
    PositivesNormalizer,
    WeightedCriterion,
    centerness_quality,
    centerness_weights,
    uniform_weights,
)
from detkit.dense.heads import build_dense_head
from detkit.dense.postprocess import DensePostprocessor
from detkit.geometry import BoxCoder, DeltaBoxCoder, PointBoxCoder, square_anchors
from detkit.losses import giou_loss, iou_loss, linear_iou_loss

__all__ = ["dense_parts_from_config", "head_parts_from_config"]


def dense_parts_from_config(cfg: CfgNode, node: CfgNode) -> dict[str, Any]:
    """The arguments of :class:`detkit.dense.DenseDetector` from a method's keys (``cfg.MODEL.FCOS``, ``cfg.MODEL.ATSS``, ...)."""
    backbone = build_backbone(cfg)
    levels = levels_named(node.IN_FEATURES, backbone.output_shape(), f"MODEL.{cfg.MODEL.META_ARCHITECTURE.upper()}.IN_FEATURES")
    plus_one = 1.0 if node.PLUS_ONE else 0.0
    return {
        "backbone": backbone,
        "head_in_features": node.IN_FEATURES,
        **head_parts_from_config(cfg, node, levels, plus_one=plus_one),
        "grid_offset": node.ANCHORS.OFFSET,
        "plus_one": plus_one,
        "postprocessor": DensePostprocessor(
            score=node.TEST.SCORE,
            threshold_on=node.TEST.THRESHOLD_ON,
            rank_by=node.TEST.RANK_BY,
            score_thresh=node.TEST.SCORE_THRESH,
            topk_per_level=node.TEST.TOPK_PER_LEVEL,
            nms_thresh=node.TEST.NMS_THRESH,
            max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
            clip=node.TEST.CLIP_BEFORE_NMS,
            drop_empty=node.TEST.DROP_EMPTY,
            plus_one=plus_one,
        ),
        "quality_from_boxes": _choice("TEST.QUALITY_FROM", node.TEST.QUALITY_FROM, {"branch": False, "box": True}),
        "ignore_padding": node.IGNORE_PADDING,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }


def head_parts_from_config(cfg: CfgNode, node: CfgNode, levels: Sequence[ShapeSpec], *, plus_one: float = 0.0) -> dict[str, Any]:
    """Head, anchors, box coder, assigner and criterion on a pyramid of these levels, from fine to coarse.

    Reads ``ANCHORS``, ``HEAD``, ``BOX_CODER``, ``ASSIGNER``, ``LOSS`` and ``NUM_CLASSES`` of the node.
    """
    cell_anchors = square_anchors(
        [level.stride for level in levels],
        node.ANCHORS.SCALES,
        node.ANCHORS.RATIOS,
        plus_one,
        ratios_first=node.ANCHORS.RATIOS_FIRST,
        whole_pixels=node.ANCHORS.WHOLE_PIXELS,
    )
    box_coder = _build_box_coder(node.BOX_CODER)
    assigner = build_assigner(node.ASSIGNER, cfg)
    return {
        "head": build_dense_head(
            node,
            in_channels=levels[0].channels,
            num_levels=len(levels),
            num_anchors=cell_anchors[0].shape[0],
        ),
        "cell_anchors": cell_anchors,
        "box_coder": box_coder,
        "assigner": assigner,
        "criterion": _build_criterion(node, box_coder, assigner),
    }


def _build_box_coder(node: CfgNode) -> BoxCoder:
    if node.NAME == "delta":
        return DeltaBoxCoder(node.DELTA_WEIGHTS, clamp_below=node.DELTA_CLAMP_BELOW)
    return PointBoxCoder(node.NAME)


def _build_criterion(node: CfgNode, box_coder: BoxCoder, assigner: Assigner) -> DenseCriterion | WeightedCriterion:
    if node.LOSS.CRITERION not in ("auto", "labels", "weighted"):
        raise ValueError(f"LOSS.CRITERION must be 'auto', 'labels' or 'weighted', not '{node.LOSS.CRITERION}'.")
    if node.LOSS.CRITERION == "labels" and assigner.gives_weights:
        raise ValueError(f"LOSS.CRITERION 'labels' cannot use the weights that {node.ASSIGNER} gives: set it to 'auto'.")
    if node.LOSS.CRITERION == "weighted" or assigner.gives_weights:
        return _build_weighted_criterion(node)
    return _build_label_criterion(node, box_coder)


def _build_weighted_criterion(node: CfgNode) -> WeightedCriterion:
    box_loss = _choice("LOSS.BOX of a weighted loss", node.LOSS.BOX, {"iou": iou_loss, "giou": giou_loss})
    return WeightedCriterion(num_classes=node.NUM_CLASSES, box_loss=box_loss)


def _build_label_criterion(node: CfgNode, box_coder: BoxCoder) -> DenseCriterion:
    offset = 1.0 if node.LOSS.IOU_PLUS_ONE else 0.0
    qualities = {"centerness": centerness_quality, "iou": IoUQuality(box_coder, offset)}
    weights = {"centerness": centerness_weights, "uniform": uniform_weights}
    return DenseCriterion(
        num_classes=node.NUM_CLASSES,
        box_loss=_build_box_loss(node.LOSS, box_coder, offset),
        box_weights=_choice("LOSS.BOX_WEIGHTING", node.LOSS.BOX_WEIGHTING, weights),
        quality_target=_choice("LOSS.QUALITY", node.LOSS.QUALITY, qualities),
        normalizer=_build_normalizer(node.LOSS),
        focal_alpha=node.LOSS.FOCAL_ALPHA,
        focal_gamma=node.LOSS.FOCAL_GAMMA,
        cls_weight=node.LOSS.CLS_WEIGHT,
        box_weight=node.LOSS.BOX_WEIGHT,
        quality_weight=node.LOSS.QUALITY_WEIGHT,
    )


def _build_box_loss(node: CfgNode, box_coder: BoxCoder, offset: float) -> BoxTerm:
    losses: dict[str, BoxTerm] = {
        name: DecodedBoxLoss(box_coder, partial(loss, offset=offset))
        for name, loss in (("iou", iou_loss), ("linear_iou", linear_iou_loss), ("giou", giou_loss))
    }
    losses["smooth_l1"] = EncodedBoxLoss(box_coder, partial(smooth_l1_loss, beta=node.SMOOTH_L1_BETA))
    return _choice("LOSS.BOX", node.BOX, losses)


def _build_normalizer(node: CfgNode) -> Normalizer:
    min_box = node.MIN_BOX_NORMALIZER
    builders = {
        "positives": partial(PositivesNormalizer, min_box=min_box),
        "positives_per_image": partial(PositivesNormalizer, min_positives_per_image=1, min_box=min_box),
        "ema": MovingAverageNormalizer,
        "moving_fg": partial(MovingClassNormalizer, min_box=min_box),
        "all": partial(AllPriorsNormalizer, min_box=min_box),
    }
    return _choice("LOSS.NORMALIZER", node.NORMALIZER, builders)()


def _choice(key: str, name: str, options: Mapping[str, Any]) -> Any:
    if name not in options:
        raise ValueError(f"{key} must be one of {', '.join(options)}, not '{name}'.")
    return options[name]
