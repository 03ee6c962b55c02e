"""The keys of the label assigners, below ``MODEL.ASSIGNERS``."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from .limits import Limit

__all__ = ["ASSIGNER_LIMITS", "add_assigner_config"]

#: what the keys of each assigner may be
ASSIGNER_LIMITS: dict[str, dict[str, Limit]] = {
    "FCOS": {"SIZES_OF_INTEREST": "(0, inf)", "CENTER_RADIUS": "[0, inf)"},
    "ATSS": {"TOPK": "[1, inf)"},
    "CENTROID": {"SCALE": "(0, inf)", "NUM_POINTS": "[1, inf)", "MIDDLE": ("center", "centroid")},
    "IOU": {"THRESHOLDS": "(0, 1]", "LOW_QUALITY_FROM": "[0, 1]"},
    "HUNGARIAN": {
        "CLASS_COST": ("focal", "softmax"),
        "FOCAL_ALPHA": "[0, 1]",
        "FOCAL_GAMMA": "[0, inf)",
        "EPS": "(0, 1)",
        **dict.fromkeys(("CLASS_WEIGHT", "L1_WEIGHT", "GIOU_WEIGHT"), "[0, inf)"),
    },
    "DW": {
        "FORMULA": ("official", "paper"),
        "BAG": ("inside", "threshold", "topk"),
        "PRIOR": ("soft", "hard", "none"),
        "NEGATIVE": ("full", "probability", "importance", "none", "one_minus_positive"),
        **dict.fromkeys(("BETA", "MU", "MU_NORMALIZER", "GAMMA2", "FACTOR"), "[0, inf)"),
        **dict.fromkeys(("GAMMA1", "RADIUS", "PRIOR_SIGMA"), "(0, inf)"),
        "TOPK": "[1, inf)",
        "PRIOR_THRESHOLD": "[0, 1]",
    },
    "GFL": {"GAMMA": "[0, inf)", "BOX_FACTOR": "[0, inf)"},
    "VFL": {"GAMMA": "[0, inf)", "ALPHA": "[0, inf)", "BOX_FACTOR": "[0, inf)"},
    "TASK_ALIGNED": {"TOPK": "[1, inf)", **dict.fromkeys(("ALPHA", "BETA", "GAMMA", "BOX_FACTOR"), "[0, inf)")},
    "MUSU": {"LEAN": "[0, 0.5]", "SHARPNESS": "(0, inf)", "BOX_FACTOR": "[0, inf)"},
    "AUTOASSIGN": {
        "WEIGHTS": ("learned", "detached", "on_loss"),
        **dict.fromkeys(("BOX_SHARPNESS", "POSITIVE", "NEGATIVE", "CENTER"), "[0, inf)"),
    },
    "PAA": {"TOPK": "[1, inf)", "BOX_FACTOR": "[0, inf)", "ITERATIONS": "[1, inf)"},
    "SIMOTA": {"TOPK": "[1, inf)", "IOU_WEIGHT": "[0, inf)", "CENTER_RADIUS": "(0, inf)"},
    "OTA": {
        "TOPK": "[1, inf)",
        "IOU_WEIGHT": "[0, inf)",
        "CENTER_RADIUS": "(0, inf)",
        "EPSILON": "(0, inf)",
        "ITERATIONS": "[1, inf)",
    },
    "ONENET": dict.fromkeys(("CLASS_WEIGHT", "L1_WEIGHT", "GIOU_WEIGHT"), "[0, inf)"),
    "POTO": {"ALPHA": "[0, 1]", "CENTER_RADIUS": "[0, inf)", "MATCHING": ("hungarian", "greedy")},
    "QUALITY_ATSS": {"TOPK": "[1, inf)", "ALPHA": "[0, 1]"},
    "FOVEABOX": {"SIZES": "(0, inf)", "ETA": "(1, inf)", "SIGMA": "(0, 1]"},
}


def add_assigner_config(cfg: CN) -> None:
    """Adds one node per assigner to ``cfg.MODEL.ASSIGNERS``; the detector's ``ASSIGNER`` key chooses one."""
    cfg.MODEL.ASSIGNERS = CN()

    node = cfg.MODEL.ASSIGNERS.FCOS = CN()
    # bounds in pixels between the levels' ranges of the largest distance to a side; one less than there are levels
    node.SIZES_OF_INTEREST = [64, 128, 256, 512]
    # in strides; 0: the whole box is positive, as in the paper (center sampling came later)
    node.CENTER_RADIUS = 1.5
    # both ends belong to a range: tianzhi0549/FCOS, AdelaiDet, mmdetection; False, neither does: Detectron2
    node.INCLUSIVE_RANGES = True

    node = cfg.MODEL.ASSIGNERS.ATSS = CN()
    node.TOPK = 9  # nearest locations per level that are candidates

    node = cfg.MODEL.ASSIGNERS.CENTROID = CN()
    node.SCALE = 4.0  # side of an object in strides of its level, up to twice that
    node.NUM_POINTS = 1  # locations per object
    node.MIDDLE = "center"  # of the box; "centroid" of the four extreme points

    node = cfg.MODEL.ASSIGNERS.IOU = CN()
    # background below the first, object from the second, ignored in between (RetinaNet)
    node.THRESHOLDS = [0.4, 0.5]
    # each object also takes the anchors that overlap it most
    node.ALLOW_LOW_QUALITY = True
    node.LOW_QUALITY_FROM = 0.0  # least IoU of such an anchor
    # ignore, instead of taking as positive, anchors whose center does not lie in their object ("In GT Box" of ATSS, table 1)
    node.ONLY_CENTER_INSIDE = False

    node = cfg.MODEL.ASSIGNERS.HUNGARIAN = CN()
    # "focal" for sigmoids; "softmax" for K + 1 logits, the last of which means no object
    node.CLASS_COST = "focal"
    node.FOCAL_ALPHA = 0.25
    node.FOCAL_GAMMA = 2.0
    node.EPS = 1e-8  # inside the logarithms of the focal cost; mmdetection: 1e-12
    node.CLASS_WEIGHT = 2.0
    node.L1_WEIGHT = 5.0
    node.GIOU_WEIGHT = 2.0

    node = cfg.MODEL.ASSIGNERS.DW = CN()
    node.FORMULA = "official"  # of both weights: strongwolf/DW; "paper": equations 3 to 8
    node.BETA = 5.0  # table 2; also what the box loss is multiplied by
    node.MU = 5.0  # table 2
    node.MU_NORMALIZER = 3.0  # mu in the normalizer of the official formula
    node.GAMMA1 = 2.0  # table 3
    node.GAMMA2 = 2.0  # table 3
    # candidates, table 4: "inside" the object; "threshold": nearer to its center than RADIUS strides; "topk": the TOPK nearest per level
    node.BAG = "inside"
    node.RADIUS = 1.7
    node.TOPK = 9
    # what positive weights are multiplied by: "soft" (a Gaussian around the center), "hard" (1 where that is above PRIOR_THRESHOLD, else 0:
    # soft_prior=False of strongwolf/DW), "none"
    node.PRIOR = "soft"
    node.PRIOR_SIGMA = 1.11  # strides; 0.7071: the paper's exp(-r^2)
    node.PRIOR_THRESHOLD = 0.3
    # parts of the negative weight, table 5: "full", "probability" (no I_neg), "importance" (no P_neg), "none", "one_minus_positive"
    node.NEGATIVE = "full"
    node.FACTOR = 0.25  # of the positive and box losses; the paper has none

    # soft targets: the IoU of the box, for the positives of a hard assigner
    node = cfg.MODEL.ASSIGNERS.GFL = CN()
    node.BASE = "ATSSAssigner"
    node.GAMMA = 2.0  # the paper's beta
    node.BOX_FACTOR = 2.0

    node = cfg.MODEL.ASSIGNERS.VFL = CN()
    node.BASE = "ATSSAssigner"
    node.GAMMA = 2.0
    node.ALPHA = 0.75
    node.BOX_FACTOR = 1.5

    node = cfg.MODEL.ASSIGNERS.TASK_ALIGNED = CN()
    node.TOPK = 13  # positives per object
    node.ALPHA = 1.0  # exponents of score and IoU
    node.BETA = 6.0
    node.GAMMA = 2.0
    node.BOX_FACTOR = 2.0

    node = cfg.MODEL.ASSIGNERS.MUSU = CN()
    node.LEAN = 0.2  # how much the less important of score and IoU counts
    node.SHARPNESS = 5.0
    node.BOX_FACTOR = 2.0

    node = cfg.MODEL.ASSIGNERS.AUTOASSIGN = CN()
    node.WEIGHTS = "learned"  # table 6 of DW: "detached"; "on_loss": detached and multiplied by the logarithms
    node.BOX_SHARPNESS = 5.0
    node.POSITIVE = 0.25
    node.NEGATIVE = 0.75
    node.CENTER = 0.75

    node = cfg.MODEL.ASSIGNERS.PAA = CN()
    node.TOPK = 9  # candidates per level
    node.BOX_FACTOR = 1.3
    node.ITERATIONS = 20

    node = cfg.MODEL.ASSIGNERS.SIMOTA = CN()
    node.TOPK = 10  # IoUs that are summed
    node.IOU_WEIGHT = 3.0
    node.CENTER_RADIUS = 2.5  # strides

    node = cfg.MODEL.ASSIGNERS.OTA = CN()
    node.TOPK = 20
    node.IOU_WEIGHT = 1.5
    node.CENTER_RADIUS = 2.5
    node.EPSILON = 0.1
    node.ITERATIONS = 50

    # one location for each object, so that no suppression is needed: the costs of OneNet, the qualities of DeFCN
    node = cfg.MODEL.ASSIGNERS.ONENET = CN()
    node.CLASS_WEIGHT = 2.0
    node.L1_WEIGHT = 5.0
    node.GIOU_WEIGHT = 2.0

    node = cfg.MODEL.ASSIGNERS.POTO = CN()
    node.ALPHA = 0.8  # how much the box counts beside the class
    node.CENTER_RADIUS = 1.5  # strides; 0: the whole object
    # "hungarian": the best sum, which the host finds, so that a step waits for the device once; "greedy": best pair first, without waiting
    node.MATCHING = "hungarian"

    # several locations for each object by the same quality, for an auxiliary loss (DeFCN)
    node = cfg.MODEL.ASSIGNERS.QUALITY_ATSS = CN()
    node.TOPK = 9  # candidates per level
    node.ALPHA = 0.8

    node = cfg.MODEL.ASSIGNERS.FOVEABOX = CN()
    node.SIZES = [32, 64, 128, 256, 512]  # side of an ordinary object on each level, in pixels
    node.ETA = 2.0  # a level takes sides from SIZE / ETA to SIZE * ETA
    node.SIGMA = 0.4  # the middle of a box, as a fraction of its sides
