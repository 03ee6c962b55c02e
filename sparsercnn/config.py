"""The keys of Sparse R-CNN."""

from __future__ import annotations

import math

from detectron2.config import CfgNode as CN

from detkit.config import Form, Limit, numbers

__all__ = ["CONFIG_LIMITS", "INTERACTION_KEYS", "LIMITS", "add_config"]

#: what the keys may be; choices of parts and what depends on the pyramid are checked where the parts are built
LIMITS: dict[str, Limit] = {
    "NUM_CLASSES": "[1, 100000]",
    **dict.fromkeys(("NUM_PROPOSALS", "NUM_STAGES"), "[1, 100000]"),
    "MATCHES_PER_OBJECT": Form(
        "a list of whole numbers in [1, 100000]", lambda value: all(type(number) is int and 1 <= number <= 100000 for number in value)
    ),
    "POOLER.RESOLUTION": "[1, 1024]",
    "POOLER.SAMPLING_RATIO": "[0, inf)",
    "POOLER.TYPE": ("ROIAlign", "ROIAlignV2", "ROIPool"),
    **dict.fromkeys(("HEAD.NUM_ATTENTION_HEADS", "HEAD.DYNAMIC_CHANNELS", "HEAD.STATIC_CHANNELS", "HEAD.FFN_CHANNELS"), "[1, 65536]"),
    **dict.fromkeys(("HEAD.NUM_BOX_LAYERS", "HEAD.NUM_CLS_LAYERS", "HEAD.BOX_PRED_GAIN"), "[0, inf)"),
    "HEAD.DROPOUT": "[0, 1)",
    "HEAD.PRIOR_PROB": "(0, 1)",
    "BOX_CODER.DELTA_WEIGHTS": numbers("(0, inf)", 4),
    "BOX_CODER.SCALE_CLAMP": "(0, inf)",
    "DENOISING.COPIES": "[0, 100000]",
    "DENOISING.NOISE": "[0, 1)",
    "DENOISING.WEIGHT": "[0, inf)",
    "LOSS.FOCAL_ALPHA": "[0, 1]",
    "LOSS.FOCAL_GAMMA": "[0, inf)",
    "LOSS.NO_OBJECT_WEIGHT": "(0, inf)",
    **dict.fromkeys(("LOSS.CLASS_WEIGHT", "LOSS.L1_WEIGHT", "LOSS.GIOU_WEIGHT"), "[0, inf)"),
    "LOSS.NORMALIZER": ("objects", "matches"),
}
#: the same by section, for :func:`detkit.config.check_config`
CONFIG_LIMITS = {"MODEL.SPARSE_RCNN": LIMITS}

#: the sizes below HEAD that an interaction reads; those of the others have to keep their defaults
INTERACTION_KEYS: dict[str, tuple[str, ...]] = {
    "attention": (),
    "concat": ("STATIC_CHANNELS",),
    "dynamic": ("DYNAMIC_CHANNELS",),
    "static": ("STATIC_CHANNELS",),
}


def add_config(cfg: CN) -> None:
    """Adds ``MODEL.SPARSE_RCNN``: six stages and 100 proposals as published (PeizeSun/SparseR-CNN ``sparsercnn.res50.100pro.3x``).

    The channels of proposal features and heads are those of the pyramid, ``MODEL.FPN.OUT_CHANNELS``. ``TEST.DETECTIONS_PER_IMAGE``
    detections are kept; the published code keeps as many as there are proposals.
    """
    node = cfg.MODEL.SPARSE_RCNN = CN()
    node.NUM_CLASSES = 80
    node.NUM_PROPOSALS = 100
    node.NUM_STAGES = 6
    # levels of the pyramid that RoIs are pooled from, from fine to coarse
    node.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    # a class registered in detkit.assigners.ASSIGNER_REGISTRY that needs no priors; its own keys are below MODEL.ASSIGNERS
    node.ASSIGNER = "HungarianAssigner"
    # how many proposals are matched with each object in the first stages, fewer numbers than there are stages; it is one in all others, so
    # that the last predicts no duplicates. More positives for short trainings: [4, 2]
    node.MATCHES_PER_OBJECT = []
    # where the proposal boxes start (table 6): "image", "center", "grid", "random"; or on grids of three box sizes, "scales"
    node.PROPOSAL_INIT = "image"

    node.POOLER = CN()
    node.POOLER.RESOLUTION = 7
    node.POOLER.SAMPLING_RATIO = 2
    node.POOLER.TYPE = "ROIAlignV2"

    node.HEAD = CN()
    # how a proposal feature meets its RoI: "dynamic"; of the ablations "static" (two layers on the RoI alone), "concat" (their output
    # beside the feature of the stage before), "attention" (multi-head attention over the RoI's bins)
    node.HEAD.INTERACTION = "dynamic"
    # "sigmoid" of each class, with focal loss; "softmax" over the classes and "no object", with cross entropy, which goes with
    # MODEL.ASSIGNERS.HUNGARIAN.CLASS_COST "softmax"
    node.HEAD.CLASSIFIER = "sigmoid"
    node.HEAD.SELF_ATTENTION = True  # between the proposals of an image
    node.HEAD.POSITIONAL_ENCODING = False  # add an encoding of its box to each proposal feature (table 10)
    node.HEAD.NUM_ATTENTION_HEADS = 8
    node.HEAD.DYNAMIC_CHANNELS = 64  # between the two generated layers
    node.HEAD.STATIC_CHANNELS = 1024  # of the two layers of "static" and "concat"
    node.HEAD.FFN_CHANNELS = 2048
    node.HEAD.NUM_CLS_LAYERS = 1
    node.HEAD.NUM_BOX_LAYERS = 3
    node.HEAD.DROPOUT = 0.0
    node.HEAD.PRIOR_PROB = 0.01
    # factor on Xavier's initial weights of the layer that gives the box deltas; 0: every stage starts by leaving boxes nearly as they are
    node.HEAD.BOX_PRED_GAIN = 1.0

    node.BOX_CODER = CN()
    node.BOX_CODER.DELTA_WEIGHTS = [2.0, 2.0, 1.0, 1.0]
    node.BOX_CODER.SCALE_CLAMP = math.log(100000.0 / 16)  # bound of the decoded log-sizes; mmdetection: ln(1000 / 16)
    node.BOX_CODER.DELTA_CLAMP_BELOW = False  # mmdetection: True

    node.LOSS = CN()
    node.LOSS.FOCAL_ALPHA = 0.25
    node.LOSS.FOCAL_GAMMA = 2.0
    node.LOSS.NO_OBJECT_WEIGHT = 0.1  # of "no object" in the cross entropy of a softmax
    node.LOSS.CLASS_WEIGHT = 2.0
    node.LOSS.L1_WEIGHT = 5.0
    node.LOSS.GIOU_WEIGHT = 2.0
    # what the losses are divided by: "objects", or "matches" (mmdetection; fewer where there are more objects than proposals)
    node.LOSS.NORMALIZER = "objects"

    # denoising queries (DN-DETR) for short trainings: noised ground-truth boxes as extra proposals, from which boxes are learned
    node.DENOISING = CN()
    node.DENOISING.COPIES = 0  # queries per object; 0: none, as published
    node.DENOISING.NOISE = 0.4  # largest shift in half widths and heights, and largest relative change of these
    node.DENOISING.WEIGHT = 1.0  # of the losses

    node.TEST = CN()
    node.TEST.STAGE = -1  # whose boxes and classes are the detections; the last one
