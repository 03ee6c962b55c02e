"""The keys that every dense detector has, below ``MODEL.<METHOD>``."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode as CN

from .limits import Limit, number_or_none, numbers

__all__ = ["DENSE_LIMITS", "DENSE_TEST_LIMITS", "dense_node"]

#: what the keys of anchors, head, box coding and losses may be; choices of parts are checked where the part is chosen
DENSE_LIMITS: dict[str, Limit] = {
    "ANCHORS.OFFSET": "[0, 1]",
    "ANCHORS.SCALES": "(0, inf)",
    "ANCHORS.RATIOS": "(0, inf)",
    "HEAD.NUM_CONVS": "[0, 1000]",
    "HEAD.NUM_SHARED_CONVS": "[0, 1000]",
    "HEAD.CHANNELS": "[1, 65536]",
    "HEAD.QUALITY": ("cls", "box", "none"),
    "HEAD.PRIOR_PROB": "(0, 1)",
    "HEAD.BOX_BIAS": "(-inf, inf)",
    "HEAD.COARSE_BOX": ("point", "anchor"),
    "HEAD.DCN_ON_FIRST_CONVS": "[0, inf)",
    "HEAD.FILTER_SIZE": "[1, 99]",
    "HEAD.FILTER_LEVELS": "[0, 99]",
    "BOX_CODER.NAME": ("exp", "relu", "exp_stride", "linear", "delta"),
    "BOX_CODER.DELTA_WEIGHTS": numbers("(0, inf)", 4),
    "LOSS.CRITERION": ("auto", "labels", "weighted"),
    "LOSS.FOCAL_ALPHA": "[0, 1]",
    "LOSS.FOCAL_GAMMA": "[0, inf)",
    "LOSS.SMOOTH_L1_BETA": "[0, inf)",
    "LOSS.MIN_BOX_NORMALIZER": "(0, inf)",
    **dict.fromkeys(("LOSS.CLS_WEIGHT", "LOSS.BOX_WEIGHT", "LOSS.QUALITY_WEIGHT"), "[0, inf)"),
}
#: the same of a whole detector's levels, test settings and auxiliary loss
DENSE_TEST_LIMITS: dict[str, Limit] = {
    "NUM_CLASSES": "[1, 100000]",
    "TEST.SCORE": ("sqrt_product", "product", "class"),
    "TEST.THRESHOLD_ON": ("class", "product", "score"),
    "TEST.RANK_BY": ("product", "class", "location"),
    "TEST.VOTE_SIGMA": "[0, inf)",
    "TEST.SCORE_THRESH": "[0, 1]",
    "TEST.TOPK_PER_LEVEL": "[1, inf)",
    "TEST.NMS_THRESH": number_or_none("[0, 1]"),
    **dict.fromkeys(("AUXILIARY.CLS_WEIGHT", "AUXILIARY.BOX_WEIGHT"), "[0, inf)"),
}


def dense_node(**changed: Any) -> CN:
    """The keys of a dense detector with FCOS's published defaults.

    Args:
        changed: other defaults, by dotted key with ``__`` for the dot: ``dense_node(LOSS__BOX="giou")``.
    """
    node = CN()
    node.NUM_CLASSES = 80
    # levels of the pyramid, from fine to coarse
    node.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # legacy inclusive corners (x1 - x0 + 1): weights of tianzhi0549/FCOS and sfzhang15/ATSS
    node.PLUS_ONE = False
    # leave out locations beyond an image's own padded area: mmdetection's anchor heads
    node.IGNORE_PADDING = False
    # a class registered in detkit.assigners.ASSIGNER_REGISTRY; its own keys are below MODEL.ASSIGNERS
    node.ASSIGNER = "FCOSAssigner"

    node.ANCHORS = CN()
    node.ANCHORS.OFFSET = 0.5  # location inside its cell; mmdetection's anchor heads: 0
    node.ANCHORS.SCALES = [8.0]  # side in strides
    node.ANCHORS.RATIOS = [1.0]  # height / width
    # order of several anchors, which decides what the channels of weights mean: all scales of the first ratio come first (mmdetection,
    # torchvision), else all ratios of the first scale (Detectron2, the official ATSS)
    node.ANCHORS.RATIOS_FIRST = False
    node.ANCHORS.WHOLE_PIXELS = False  # sides cut to whole pixels, corners rounded: torchvision

    node.HEAD = CN()
    # a class registered in detkit.dense.heads.DENSE_HEAD_REGISTRY; "TOODHead" needs QUALITY "none" and BOX_CODER.NAME "linear"
    node.HEAD.NAME = "DenseHead"
    node.HEAD.NUM_CONVS = 4
    node.HEAD.NUM_SHARED_CONVS = 0  # before the towers of classes and boxes: AdelaiDet's NUM_SHARE_CONVS
    node.HEAD.CHANNELS = 256
    node.HEAD.NORM = "GN"  # "" for none; "BN", "SyncBN": one for each level
    node.HEAD.TOWER_BIAS = True
    node.HEAD.DCN_ON_LAST_CONV = False  # the last convolution of each tower deformable: "DCN" models; tianzhi0549/FCOS: USE_DCN_IN_TOWER
    node.HEAD.QUALITY = "cls"  # tower that carries the quality branch (see LOSS.QUALITY): "cls", "box", "none"
    node.HEAD.SCALES = True  # a learnable factor per level on the regression
    node.HEAD.PRIOR_PROB = 0.01
    node.HEAD.BOX_BIAS = 0.0
    # of TOODHead: what it aligns, distances to a "point" or deltas of an "anchor"; how many of its first convolutions are deformable
    # (2 in TOOD's "dconv" models)
    node.HEAD.COARSE_BOX = "point"
    node.HEAD.DCN_ON_FIRST_CONVS = 0
    # of MaxFilteringHead (DeFCN, section 3.3): side of the window in cells, and the levels that it spans beside its own, half of them finer
    # and half coarser
    node.HEAD.FILTER_SIZE = 3
    node.HEAD.FILTER_LEVELS = 2

    node.BOX_CODER = CN()
    node.BOX_CODER.NAME = "exp"  # "exp" (pixels), "relu", "exp_stride" and "linear" (strides), "delta" (relative to the anchor)
    node.BOX_CODER.DELTA_WEIGHTS = [10.0, 10.0, 5.0, 5.0]
    node.BOX_CODER.DELTA_CLAMP_BELOW = False  # mmdetection: True

    node.LOSS = CN()
    # "auto": "weighted" for assigners that give weights, which bring the factors of their loss along (of the keys below only BOX counts),
    # "labels" for others; "weighted" takes hard labels, too: focal loss on class probability times quality
    node.LOSS.CRITERION = "auto"
    node.LOSS.FOCAL_ALPHA = 0.25
    node.LOSS.FOCAL_GAMMA = 2.0
    node.LOSS.CLS_WEIGHT = 1.0
    node.LOSS.BOX = "iou"  # "iou" (-log), "linear_iou" (1 - IoU), "giou"; "smooth_l1": on what the regression branch gives (RetinaNet)
    node.LOSS.IOU_PLUS_ONE = False  # (intersection + 1) / (union + 1): tianzhi0549/FCOS and AdelaiDet
    node.LOSS.SMOOTH_L1_BETA = 0.11  # where smooth L1 turns from square to linear
    node.LOSS.BOX_WEIGHT = 1.0
    node.LOSS.BOX_WEIGHTING = "centerness"  # or "uniform": Detectron2's FCOS, AdelaiDet with LOSS.QUALITY "iou", RetinaNet
    # what the sums are divided by: "positives"; "positives_per_image": an image counts as having one at least (mmdetection's ATSS);
    # "ema": all terms by a moving average (Detectron2's FCOS); "moving_fg", "all": only the classes, by a moving average or by the
    # number of all priors (AdelaiDet)
    node.LOSS.NORMALIZER = "positives"
    node.LOSS.MIN_BOX_NORMALIZER = 1e-6  # mmdetection's ATSS: 1
    node.LOSS.QUALITY = "centerness"  # what the quality branch learns; "iou", of the predicted box: AdelaiDet's BOX_QUALITY
    node.LOSS.QUALITY_WEIGHT = 1.0

    # a second, many-to-one assignment beside ASSIGNER, on the same class logits (without the quality) and boxes: DeFCN, section 3.4
    node.AUXILIARY = CN()
    node.AUXILIARY.ASSIGNER = ""  # "": none; as ASSIGNER, for instance "QualityATSSAssigner" (DeFCN)
    # factors of its losses of classes and boxes, beside those that LOSS has; 0 leaves them out
    node.AUXILIARY.CLS_WEIGHT = 1.0
    node.AUXILIARY.BOX_WEIGHT = 0.0

    node.TEST = CN()
    # where the quality in the score comes from: the "branch", or the center-ness of the predicted "box" (FCOS, table 4)
    node.TEST.QUALITY_FROM = "branch"
    node.TEST.SCORE = "sqrt_product"  # of class probability and quality; "product": mmdetection; "class"
    node.TEST.THRESHOLD_ON = "class"  # "product": AdelaiDet's THRESH_WITH_CTR; "score": Detectron2
    # "class": mmdetection; "location": TOPK_PER_LEVEL locations by their best score, with all of their classes: PAA
    node.TEST.RANK_BY = "product"
    node.TEST.SCORE_THRESH = 0.05
    node.TEST.TOPK_PER_LEVEL = 1000
    node.TEST.NMS_THRESH = 0.6  # none: no suppression, for assigners that give each object one location
    node.TEST.CLIP_BEFORE_NMS = True  # Detectron2 and AdelaiDet: False
    node.TEST.DROP_EMPTY = False  # leave out boxes without area before NMS: mmdetection
    # detections become the mean of the candidates around them, weighted by score and exp(-(1 - IoU)^2 / VOTE_SIGMA): PAA, 0.025; 0: they
    # stay as they are
    node.TEST.VOTE_SIGMA = 0.0

    for key, value in changed.items():
        *path, last = key.split("__")
        target = node
        for part in path:
            target = target[part]
        if last not in target:
            raise KeyError(f"A dense detector has no key {'.'.join([*path, last])}.")
        target[last] = value
    return node
