"""From config keys to the parts of Sparse R-CNN."""

from __future__ import annotations

import itertools
import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from detkit.assigners import build_assigner
from detkit.backbones import levels_named
from detkit.config import Conventions, Section
from detkit.geometry import DeltaBoxCoder
from detkit.layers import PyramidPooler

from .config import INTERACTION_KEYS, LIMITS
from .criterion import FocalClassLoss, SetCriterion, SoftmaxClassLoss
from .denoising import Denoising
from .head import IterativeHead
from .interaction import AttentionInteraction, ConcatInteraction, DynamicInteraction, Interaction, StaticInteraction
from .postprocess import SetPostprocessor
from .proposals import INITIAL_BOXES, LearnedProposals
from .stage import BoxEncoding, FeedForward, SelfAttention, Stage

__all__ = ["parts_from_config"]

logger = logging.getLogger(__name__)


def parts_from_config(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of :class:`sparsercnn.SparseRCNN` from ``cfg.MODEL.SPARSE_RCNN``.

    Raises:
        ConfigError: a value that does not exist, or two that contradict each other.
    """
    node = Section(cfg, "MODEL.SPARSE_RCNN")
    node.check(LIMITS)
    node.check({"TEST.STAGE": f"[{-node.NUM_STAGES}, {node.NUM_STAGES - 1}]"})
    if len(node.MATCHES_PER_OBJECT) >= node.NUM_STAGES:
        raise node.refusal("MATCHES_PER_OBJECT", f"fewer numbers than there are stages, {node.NUM_STAGES}: the last one matches one to one")
    _warn_of_duplicates(node)
    if node.ASSIGNER == "HungarianAssigner":
        cost = node.choice("HEAD.CLASSIFIER", {"sigmoid": "focal", "softmax": "softmax"})
        Section(cfg, "MODEL.ASSIGNERS.HUNGARIAN").check({"CLASS_COST": (cost,)})  # matched by what they are trained with
    backbone = build_backbone(cfg)
    levels = levels_named(node.IN_FEATURES, backbone.output_shape(), f"{node.path}.IN_FEATURES")
    _check_pyramid(node, levels)
    head = _build_head(node, levels)
    initial_boxes = node.choice("PROPOSAL_INIT", INITIAL_BOXES)(node.NUM_PROPOSALS)
    channels = levels[0].channels if head.uses_features else 0
    return {
        "backbone": backbone,
        "in_features": node.IN_FEATURES,
        "proposals": LearnedProposals(initial_boxes=initial_boxes, channels=channels),
        "head": head,
        "assigner": build_assigner(node.ASSIGNER, cfg, key=f"{node.path}.ASSIGNER", takes_weights=False, has_priors=False),
        "criterion": _build_criterion(node),
        "postprocessor": SetPostprocessor(max_detections=cfg.TEST.DETECTIONS_PER_IMAGE, activation=node.HEAD.CLASSIFIER),
        "test_stage": node.TEST.STAGE,
        "matches_per_object": node.MATCHES_PER_OBJECT,
        "denoising": _build_denoising(node),
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "conventions": Conventions.of(cfg),
    }


def _warn_of_duplicates(node: Section) -> None:
    """A stage that learns several proposals for an object detects them, for nothing suppresses them."""
    matches = [*node.MATCHES_PER_OBJECT, *[1] * (node.NUM_STAGES - len(node.MATCHES_PER_OBJECT))][node.TEST.STAGE]
    if matches > 1:
        words = "whose training matches %d proposals to each object. It detects all of them: nothing suppresses them."
        logger.warning(f"%s.TEST.STAGE is %d, {words}", node.path, node.TEST.STAGE, matches)


def _check_pyramid(node: Section, levels: list[ShapeSpec]) -> None:
    strides, channels = [level.stride for level in levels], levels[0].channels
    if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(strides)):
        raise node.refusal("IN_FEATURES", f"levels each half as fine as the one before; these have the strides {strides}")
    if node.HEAD.POSITIONAL_ENCODING and channels % 8:
        raise node.refusal(
            "HEAD.POSITIONAL_ENCODING", f"False for a pyramid of {channels} channels (MODEL.FPN.OUT_CHANNELS), unless 8 divides them"
        )
    attends = node.HEAD.SELF_ATTENTION or node.HEAD.INTERACTION == "attention"
    if not attends:
        node.refuse_unread(["HEAD.NUM_ATTENTION_HEADS"], f"HEAD.INTERACTION '{node.HEAD.INTERACTION}' without HEAD.SELF_ATTENTION")
    elif channels % node.HEAD.NUM_ATTENTION_HEADS:
        raise node.refusal("HEAD.NUM_ATTENTION_HEADS", f"a divisor of the {channels} channels of the pyramid (MODEL.FPN.OUT_CHANNELS)")


def _build_head(node: Section, levels: list[ShapeSpec]) -> IterativeHead:
    pooler = PyramidPooler(
        output_size=node.POOLER.RESOLUTION,
        scales=[1 / level.stride for level in levels],
        sampling_ratio=node.POOLER.SAMPLING_RATIO,
        pooler_type=node.POOLER.TYPE,
    )
    box_coder = DeltaBoxCoder(
        node.BOX_CODER.DELTA_WEIGHTS, scale_clamp=node.BOX_CODER.SCALE_CLAMP, clamp_below=node.BOX_CODER.DELTA_CLAMP_BELOW
    )
    stages = [_build_stage(node, levels[0].channels) for _ in range(node.NUM_STAGES)]
    return IterativeHead(stages=stages, pooler=pooler, box_coder=box_coder)


def _build_stage(node: Section, channels: int) -> Stage:
    head, softmax = node.HEAD, node.HEAD.CLASSIFIER == "softmax"
    attention = SelfAttention(channels=channels, num_heads=head.NUM_ATTENTION_HEADS, dropout=head.DROPOUT) if head.SELF_ATTENTION else None
    return Stage(
        channels=channels,
        num_logits=node.NUM_CLASSES + (1 if softmax else 0),
        interaction=_build_interaction(node, channels),
        attention=attention,
        encoding=BoxEncoding(channels=channels) if head.POSITIONAL_ENCODING else None,
        ffn=FeedForward(channels=channels, hidden_channels=head.FFN_CHANNELS, dropout=head.DROPOUT),
        num_cls_layers=head.NUM_CLS_LAYERS,
        num_box_layers=head.NUM_BOX_LAYERS,
        prior_prob=None if softmax else head.PRIOR_PROB,
        box_pred_gain=head.BOX_PRED_GAIN,
    )


def _build_interaction(node: Section, channels: int) -> Interaction:
    head, bins = node.HEAD, node.POOLER.RESOLUTION**2
    static = {"channels": channels, "hidden_channels": head.STATIC_CHANNELS, "bins": bins}
    dynamic = {"channels": channels, "dynamic_channels": head.DYNAMIC_CHANNELS, "bins": bins, "dropout": head.DROPOUT}
    attention = {"channels": channels, "num_heads": head.NUM_ATTENTION_HEADS, "dropout": head.DROPOUT}
    known: dict[str, tuple[type[Interaction], dict[str, Any]]] = {
        "attention": (AttentionInteraction, attention),
        "concat": (ConcatInteraction, static),
        "dynamic": (DynamicInteraction, dynamic),
        "static": (StaticInteraction, static),
    }
    kind, arguments = node.choice("HEAD.INTERACTION", known)
    read = INTERACTION_KEYS[head.INTERACTION]
    unread = sorted({key for keys in INTERACTION_KEYS.values() for key in keys} - set(read))
    node.refuse_unread([f"HEAD.{key}" for key in unread], f"HEAD.INTERACTION '{head.INTERACTION}'")
    if not kind.uses_features:
        for key in ("HEAD.SELF_ATTENTION", "HEAD.POSITIONAL_ENCODING"):
            if node.value(key):
                raise node.refusal(key, f"False with HEAD.INTERACTION '{head.INTERACTION}', which has no proposal features")
    return kind(**arguments)


def _build_denoising(node: Section) -> Denoising | None:
    if node.DENOISING.COPIES:
        return Denoising(copies=node.DENOISING.COPIES, noise=node.DENOISING.NOISE, weight=node.DENOISING.WEIGHT)
    node.refuse_unread(["DENOISING.NOISE", "DENOISING.WEIGHT"], "DENOISING.COPIES 0")
    return None


def _build_criterion(node: Section) -> SetCriterion:
    loss = node.LOSS
    class_loss: nn.Module
    if node.HEAD.CLASSIFIER == "softmax":
        node.refuse_unread(["LOSS.FOCAL_ALPHA", "LOSS.FOCAL_GAMMA", "HEAD.PRIOR_PROB"], "HEAD.CLASSIFIER 'softmax'")
        class_loss = SoftmaxClassLoss(num_classes=node.NUM_CLASSES, no_object_weight=loss.NO_OBJECT_WEIGHT)
    else:
        node.refuse_unread(["LOSS.NO_OBJECT_WEIGHT"], "HEAD.CLASSIFIER 'sigmoid'")
        class_loss = FocalClassLoss(alpha=loss.FOCAL_ALPHA, gamma=loss.FOCAL_GAMMA)
    return SetCriterion(
        num_classes=node.NUM_CLASSES,
        class_loss=class_loss,
        class_weight=loss.CLASS_WEIGHT,
        l1_weight=loss.L1_WEIGHT,
        giou_weight=loss.GIOU_WEIGHT,
        normalizer=loss.NORMALIZER,
    )
