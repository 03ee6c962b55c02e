"""From config keys to the parts of Sparse R-CNN."""

from __future__ import annotations

import itertools
from typing import Any, TypeVar

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.poolers import ROIPooler
from torch import nn

from detkit.assigners import build_assigner
from detkit.backbones import levels_named
from detkit.config import ConfigError, check_ranges
from detkit.geometry import DeltaBoxCoder

from .criterion import FocalClassLoss, SetCriterion, SoftmaxClassLoss
from .head import IterativeHead
from .interaction import AttentionInteraction, ConcatInteraction, DynamicInteraction, Interaction, StaticInteraction
from .postprocess import SetPostprocessor
from .proposals import INITIAL_BOXES, LearnedProposals
from .stage import BoxEncoding, FeedForward, SelfAttention, Stage

__all__ = ["parts_from_config"]

Value = TypeVar("Value")

_RANGES = {
    **dict.fromkeys(("NUM_CLASSES", "NUM_PROPOSALS", "NUM_STAGES"), "[1, inf)"),
    **dict.fromkeys(("POOLER.RESOLUTION", "HEAD.NUM_ATTENTION_HEADS", "HEAD.DYNAMIC_CHANNELS", "HEAD.STATIC_CHANNELS"), "[1, inf)"),
    **dict.fromkeys(("HEAD.NUM_BOX_LAYERS", "HEAD.NUM_CLS_LAYERS", "POOLER.SAMPLING_RATIO"), "[0, inf)"),
    "HEAD.FFN_CHANNELS": "[1, inf)",
    "HEAD.DROPOUT": "[0, 1)",
    "HEAD.PRIOR_PROB": "(0, 1)",
    "BOX_CODER.DELTA_WEIGHTS": "(0, inf)",
    "BOX_CODER.SCALE_CLAMP": "(0, inf)",
}


def parts_from_config(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of :class:`sparsercnn.SparseRCNN` from ``cfg.MODEL.SPARSE_RCNN``.

    Raises:
        ConfigError: a value that does not exist, or two that contradict each other.
    """
    node = cfg.MODEL.SPARSE_RCNN
    given = cfg.MODEL.ASSIGNERS.HUNGARIAN.CLASS_COST
    cost = _choice({"sigmoid": "focal", "softmax": "softmax"}, node.HEAD.CLASSIFIER, "HEAD.CLASSIFIER")
    if node.ASSIGNER == "HungarianAssigner" and given != cost:
        raise ConfigError(
            f"MODEL.ASSIGNERS.HUNGARIAN.CLASS_COST is '{given}', but predictions are matched by what they are trained with: "
            f"with MODEL.SPARSE_RCNN.HEAD.CLASSIFIER '{node.HEAD.CLASSIFIER}' set it to '{cost}'."
        )
    backbone = build_backbone(cfg)
    levels = levels_named(node.IN_FEATURES, backbone.output_shape(), "MODEL.SPARSE_RCNN.IN_FEATURES")
    _check(node, levels)
    head = _build_head(node, levels)
    initial_boxes = _choice(INITIAL_BOXES, node.PROPOSAL_INIT, "PROPOSAL_INIT")(node.NUM_PROPOSALS)
    channels = levels[0].channels if head.uses_features else 0
    return {
        "backbone": backbone,
        "in_features": node.IN_FEATURES,
        "proposals": LearnedProposals(initial_boxes=initial_boxes, channels=channels),
        "head": head,
        "assigner": build_assigner(node.ASSIGNER, cfg, key="MODEL.SPARSE_RCNN.ASSIGNER", takes_weights=False, has_priors=False),
        "criterion": _build_criterion(node),
        "postprocessor": SetPostprocessor(max_detections=cfg.TEST.DETECTIONS_PER_IMAGE, activation=node.HEAD.CLASSIFIER),
        "test_stage": node.TEST.STAGE,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }


def _check(node: CfgNode, levels: list[ShapeSpec]) -> None:
    check_ranges(node, "MODEL.SPARSE_RCNN", _RANGES)
    strides, channels = [level.stride for level in levels], levels[0].channels
    if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(strides)):
        raise ConfigError(
            f"MODEL.SPARSE_RCNN.IN_FEATURES is {list(node.IN_FEATURES)}, with the strides {strides}: each level has to be half as fine as "
            "the one before."
        )
    if len(node.BOX_CODER.DELTA_WEIGHTS) != 4:
        raise ConfigError(f"MODEL.SPARSE_RCNN.BOX_CODER.DELTA_WEIGHTS takes four numbers, not {list(node.BOX_CODER.DELTA_WEIGHTS)}.")
    if node.HEAD.POSITIONAL_ENCODING and channels % 8:
        raise ConfigError(
            f"MODEL.SPARSE_RCNN.HEAD.POSITIONAL_ENCODING needs a pyramid whose channels (MODEL.FPN.OUT_CHANNELS) 8 divides, not {channels}."
        )
    if node.HEAD.INTERACTION == "static" and (node.HEAD.SELF_ATTENTION or node.HEAD.POSITIONAL_ENCODING):
        raise ConfigError(
            "MODEL.SPARSE_RCNN.HEAD.INTERACTION 'static' has no proposal features to attend to or to encode boxes in: set "
            "HEAD.SELF_ATTENTION False and HEAD.POSITIONAL_ENCODING False."
        )
    if channels % node.HEAD.NUM_ATTENTION_HEADS:
        raise ConfigError(
            f"MODEL.SPARSE_RCNN.HEAD.NUM_ATTENTION_HEADS is {node.HEAD.NUM_ATTENTION_HEADS}, which does not divide the {channels} channels "
            "of the pyramid (MODEL.FPN.OUT_CHANNELS)."
        )


def _build_head(node: CfgNode, levels: list[ShapeSpec]) -> IterativeHead:
    pooler = ROIPooler(
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


def _build_stage(node: CfgNode, channels: int) -> Stage:
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


def _build_interaction(node: CfgNode, channels: int) -> Interaction:
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
    kind, arguments = _choice(known, head.INTERACTION, "HEAD.INTERACTION")
    return kind(**arguments)


def _build_criterion(node: CfgNode) -> SetCriterion:
    loss = node.LOSS
    class_loss: nn.Module = FocalClassLoss(alpha=loss.FOCAL_ALPHA, gamma=loss.FOCAL_GAMMA)
    if node.HEAD.CLASSIFIER == "softmax":
        class_loss = SoftmaxClassLoss(num_classes=node.NUM_CLASSES, no_object_weight=loss.NO_OBJECT_WEIGHT)
    return SetCriterion(
        num_classes=node.NUM_CLASSES,
        class_loss=class_loss,
        class_weight=loss.CLASS_WEIGHT,
        l1_weight=loss.L1_WEIGHT,
        giou_weight=loss.GIOU_WEIGHT,
        normalizer=loss.NORMALIZER,
    )


def _choice(known: dict[str, Value], name: str, key: str) -> Value:
    if name not in known:
        raise ConfigError(f"MODEL.SPARSE_RCNN.{key} must be one of {', '.join(known)}, not '{name}'.")
    return known[name]
