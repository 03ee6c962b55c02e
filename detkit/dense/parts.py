"""From config keys to the parts of a dense detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from fvcore.nn import smooth_l1_loss

from detkit.assigners import ASSIGNER_REGISTRY, Assigner, FCOSAssigner, build_assigner
from detkit.backbones import levels_named
from detkit.config import ConfigError, Conventions, Section
from detkit.config.dense import DENSE_LIMITS, DENSE_TEST_LIMITS
from detkit.dense.auxiliary import AuxiliaryLoss
from detkit.dense.criteria import (
    AllPriorsNormalizer,
    BoxTerm,
    LabelCriterion,
    MovingAverageNormalizer,
    MovingClassNormalizer,
    Normalizer,
    PositivesNormalizer,
    WeightedCriterion,
    centerness_quality,
    centerness_weights,
    decoded_box_loss,
    encoded_box_loss,
    iou_quality,
    uniform_weights,
)
from detkit.dense.heads import build_dense_head
from detkit.dense.postprocess import DensePostprocessor
from detkit.dense.priors import PriorGenerator
from detkit.geometry import BoxCoder, DeltaBoxCoder, PointBoxCoder, square_anchors
from detkit.losses import giou_loss, iou_loss, linear_iou_loss

__all__ = ["dense_parts_from_config", "head_parts_from_config", "prior_generator_from_config"]


def dense_parts_from_config(cfg: CfgNode, node: Section) -> dict[str, Any]:
    """The arguments of :class:`detkit.dense.DenseDetector` from a method's section (``MODEL.FCOS``, ``MODEL.ATSS``, ...).

    Raises:
        ConfigError: a value that cannot be, or a key that the chosen parts do not read.
    """
    node.check(DENSE_TEST_LIMITS)
    Section(cfg, "TEST").check({"DETECTIONS_PER_IMAGE": "[1, inf)"})
    backbone = build_backbone(cfg)
    levels = levels_named(node.IN_FEATURES, backbone.output_shape(), f"{node.path}.IN_FEATURES")
    plus_one = 1.0 if node.PLUS_ONE else 0.0
    parts = head_parts_from_config(cfg, node, levels, num_classes=node.NUM_CLASSES, plus_one=plus_one)
    auxiliary = _build_auxiliary_loss(cfg, node, num_classes=node.NUM_CLASSES, num_levels=len(levels), box_coder=parts["box_coder"])
    return {
        "backbone": backbone,
        "head_in_features": node.IN_FEATURES,
        **parts,
        "auxiliary": auxiliary,
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
            vote_sigma=node.TEST.VOTE_SIGMA,
            plus_one=plus_one,
        ),
        "quality_from_boxes": node.choice("TEST.QUALITY_FROM", {"branch": False, "box": True}),
        "ignore_padding": node.IGNORE_PADDING,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "conventions": Conventions.of(cfg, node.path),
    }


def head_parts_from_config(
    cfg: CfgNode,
    node: Section,
    levels: Sequence[ShapeSpec],
    *,
    num_classes: int,
    plus_one: float = 0.0,
    sizes_of_interest: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Head, priors, box coder, assigner and criterion on a pyramid of these levels, from fine to coarse.

    Args:
        cfg: the whole config, for the assigner's own keys.
        node: reads ``ANCHORS``, ``HEAD``, ``BOX_CODER``, ``ASSIGNER`` and ``LOSS``.
        levels: channels and strides.
        num_classes: K.
        plus_one: see :class:`detkit.geometry.Priors`.
        sizes_of_interest: of :class:`detkit.assigners.FCOSAssigner`, in place of the assigner's own key.
    """
    node.check(DENSE_LIMITS)
    if node.HEAD.NORM == "GN" and node.HEAD.CHANNELS % 32:
        raise node.refusal("HEAD.CHANNELS", "divisible by 32 with HEAD.NORM 'GN', whose groups are 32")
    prior_generator = prior_generator_from_config(node, [level.stride for level in levels], plus_one)
    box_coder = _build_box_coder(node)
    assigner = build_assigner(node.ASSIGNER, cfg, key=f"{node.path}.ASSIGNER", num_classes=num_classes, sizes_of_interest=sizes_of_interest)
    _check_ranges_of_sizes(cfg, assigner, len(levels))
    head = build_dense_head(
        node,
        num_classes=num_classes,
        in_channels=levels[0].channels,
        num_levels=len(levels),
        num_anchors=prior_generator.anchors_per_point,
    )
    criterion = _build_criterion(node, num_classes, box_coder, assigner)
    if getattr(head, "needs_weighted_loss", False) and not isinstance(criterion, WeightedCriterion):
        raise node.refusal("LOSS.CRITERION", f"'weighted' for HEAD.NAME {node.HEAD.NAME}, whose quality learns as a factor of the class")
    return {
        "head": head,
        "prior_generator": prior_generator,
        "box_coder": box_coder,
        "assigner": assigner,
        "criterion": criterion,
    }


def _check_ranges_of_sizes(cfg: CfgNode, assigner: Assigner, num_levels: int) -> None:
    """Refuses FCOS's ranges of sizes where they are not one for each level, also those of an assigner that is a base of another."""
    for part in assigner.modules():
        if isinstance(part, FCOSAssigner) and len(part.upper_bounds) != num_levels:
            words = f"one bound less than there are levels: {num_levels - 1} for the {num_levels} of the detector (IN_FEATURES)"
            raise Section(cfg, "MODEL.ASSIGNERS.FCOS").refusal("SIZES_OF_INTEREST", words)


def prior_generator_from_config(node: Section, strides: Sequence[int], plus_one: float = 0.0) -> PriorGenerator:
    """The priors that ``ANCHORS`` of a section describes, on levels of these strides."""
    anchors = square_anchors(
        strides,
        node.ANCHORS.SCALES,
        node.ANCHORS.RATIOS,
        plus_one,
        ratios_first=node.ANCHORS.RATIOS_FIRST,
        whole_pixels=node.ANCHORS.WHOLE_PIXELS,
    )
    return PriorGenerator(strides=strides, cell_anchors=anchors, offset=node.ANCHORS.OFFSET, plus_one=plus_one)


def _build_box_coder(node: Section) -> BoxCoder:
    if node.BOX_CODER.NAME == "delta":
        return DeltaBoxCoder(node.BOX_CODER.DELTA_WEIGHTS, clamp_below=node.BOX_CODER.DELTA_CLAMP_BELOW)
    node.refuse_unread(("BOX_CODER.DELTA_CLAMP_BELOW",), f"the box coder '{node.BOX_CODER.NAME}'")
    return PointBoxCoder(node.BOX_CODER.NAME)


def _build_criterion(node: Section, num_classes: int, box_coder: BoxCoder, assigner: Assigner) -> LabelCriterion | WeightedCriterion:
    if node.LOSS.CRITERION == "labels" and assigner.gives_weights:
        raise ConfigError(
            f"{node.path}.LOSS.CRITERION is 'labels', which cannot use the weights that {node.path}.ASSIGNER {node.ASSIGNER} gives: "
            "set it to 'auto'."
        )
    if node.LOSS.CRITERION == "weighted" or assigner.gives_weights:
        _refuse_keys_of_labels(node, assigner)
        return _build_weighted_criterion(node, num_classes, assigner)
    return _build_label_criterion(node, num_classes, box_coder)


#: what a weighted loss does not read: the weights bring their own factors along
_LABEL_KEYS = ("FOCAL_ALPHA", "FOCAL_GAMMA", "CLS_WEIGHT", "BOX_WEIGHTING", "NORMALIZER", "MIN_BOX_NORMALIZER")
_QUALITY_KEYS = ("QUALITY", "QUALITY_WEIGHT")
_WEIGHTED_BOX_LOSSES = {"iou": iou_loss, "giou": giou_loss}


def _refuse_keys_of_labels(node: Section, assigner: Assigner) -> None:
    own = ("BOX_WEIGHT",) if assigner.gives_weights else ()
    labels = () if _auxiliary_reads_labels(node) else (*_LABEL_KEYS, *own, "IOU_PLUS_ONE", "SMOOTH_L1_BETA")
    node.refuse_unread([f"LOSS.{key}" for key in (*labels, *_QUALITY_KEYS)], "a loss of weighted pairs")


def _auxiliary_reads_labels(node: Section) -> bool:
    name = node.AUXILIARY.ASSIGNER if "AUXILIARY" in node else ""  # a proposal network has none
    return node.LOSS.CRITERION != "weighted" and name in ASSIGNER_REGISTRY and not ASSIGNER_REGISTRY.get(name).gives_weights


def _build_weighted_criterion(node: Section, num_classes: int, assigner: Assigner) -> WeightedCriterion:
    box_loss = node.choice("LOSS.BOX", _WEIGHTED_BOX_LOSSES)
    return WeightedCriterion(num_classes=num_classes, box_loss=box_loss, box_weight=1.0 if assigner.gives_weights else node.LOSS.BOX_WEIGHT)


def _build_auxiliary_loss(cfg: CfgNode, node: Section, *, num_classes: int, num_levels: int, box_coder: BoxCoder) -> AuxiliaryLoss | None:
    """The loss of a second assignment on the same head, as ``AUXILIARY`` of a section describes it; None where it names no assigner.

    Raises:
        ConfigError: an assigner that does not exist or cannot be used here, or weights without one.
    """
    if not node.AUXILIARY.ASSIGNER:
        node.refuse_unread(("AUXILIARY.CLS_WEIGHT", "AUXILIARY.BOX_WEIGHT"), "a detector without AUXILIARY.ASSIGNER")
        return None
    if not node.AUXILIARY.CLS_WEIGHT and not node.AUXILIARY.BOX_WEIGHT:
        raise node.refusal("AUXILIARY.CLS_WEIGHT", f"above 0, or AUXILIARY.BOX_WEIGHT: else {node.AUXILIARY.ASSIGNER} assigns for nothing")
    key = f"{node.path}.AUXILIARY.ASSIGNER"
    assigner = build_assigner(node.AUXILIARY.ASSIGNER, cfg, key=key, num_classes=num_classes)
    _check_ranges_of_sizes(cfg, assigner, num_levels)
    weighted = node.LOSS.CRITERION == "weighted" or assigner.gives_weights
    if not node.AUXILIARY.CLS_WEIGHT and not assigner.has_box_term:
        raise node.refusal("AUXILIARY.CLS_WEIGHT", f"above 0: the loss of {node.AUXILIARY.ASSIGNER} holds class and box in one")
    if weighted and node.LOSS.BOX not in _WEIGHTED_BOX_LOSSES:
        raise node.refusal("LOSS.BOX", f"'iou' or 'giou' with AUXILIARY.ASSIGNER {node.AUXILIARY.ASSIGNER}, whose loss weights pairs")
    return AuxiliaryLoss(
        assigner=assigner,
        criterion=(
            _build_weighted_criterion(node, num_classes, assigner) if weighted else _build_label_criterion(node, num_classes, box_coder)
        ),
        cls_weight=node.AUXILIARY.CLS_WEIGHT,
        box_weight=node.AUXILIARY.BOX_WEIGHT,
    )


def _build_label_criterion(node: Section, num_classes: int, box_coder: BoxCoder) -> LabelCriterion:
    offset = 1.0 if node.LOSS.IOU_PLUS_ONE else 0.0
    qualities: dict[str, BoxTerm] = {"centerness": centerness_quality, "iou": partial(iou_quality, offset=offset)}
    return LabelCriterion(
        num_classes=num_classes,
        box_coder=box_coder,
        box_loss=_build_box_loss(node, offset),
        location_weights=node.choice("LOSS.BOX_WEIGHTING", {"centerness": centerness_weights, "uniform": uniform_weights}),
        quality_target=node.choice("LOSS.QUALITY", qualities),
        normalizer=_build_normalizer(node),
        focal_alpha=node.LOSS.FOCAL_ALPHA,
        focal_gamma=node.LOSS.FOCAL_GAMMA,
        cls_weight=node.LOSS.CLS_WEIGHT,
        box_weight=node.LOSS.BOX_WEIGHT,
        quality_weight=node.LOSS.QUALITY_WEIGHT,
    )


def _build_box_loss(node: Section, offset: float) -> BoxTerm:
    losses: dict[str, BoxTerm] = {
        name: partial(decoded_box_loss, loss=partial(loss, offset=offset))
        for name, loss in (("iou", iou_loss), ("linear_iou", linear_iou_loss), ("giou", giou_loss))
    }
    losses["smooth_l1"] = partial(encoded_box_loss, loss=partial(smooth_l1_loss, beta=node.LOSS.SMOOTH_L1_BETA))
    if node.LOSS.BOX != "smooth_l1":
        node.refuse_unread(("LOSS.SMOOTH_L1_BETA",), f"the box loss '{node.LOSS.BOX}'")
    return node.choice("LOSS.BOX", losses)


def _build_normalizer(node: Section) -> Normalizer:
    min_box = node.LOSS.MIN_BOX_NORMALIZER
    builders: dict[str, Callable[[], Normalizer]] = {
        "positives": partial(PositivesNormalizer, min_box=min_box),
        "positives_per_image": partial(PositivesNormalizer, min_positives_per_image=1, min_box=min_box),
        "ema": MovingAverageNormalizer,
        "moving_fg": partial(MovingClassNormalizer, min_box=min_box),
        "all": partial(AllPriorsNormalizer, min_box=min_box),
    }
    return node.choice("LOSS.NORMALIZER", builders)()
