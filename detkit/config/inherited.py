"""What Detectron2's own keys may be, those left out that the other files of this room have."""

from __future__ import annotations

from typing import Any

from .backbones import NORM_NAMES
from .limits import Form, Limit, numbers, rows

__all__ = ["INHERITED_LIMITS"]

_SHARE, _WEIGHT, _POSITIVE = "[0, 1]", "[0, inf)", "(0, inf)"
_COUNT, _NUMBER, _WIDTH = "[1, 1000000]", "[0, 1000000]", "[1, 65536]"
_POOLERS = ("ROIAlign", "ROIAlignV2", "ROIPool", "ROIAlignRotated")
_BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")
#: corners of what is not to be matched: Detectron2's labels of IoU ranges
_LABELS = (-1, 0, 1)
_BOX_WEIGHTS = Form("4 numbers in (0, inf), or 5 for rotated boxes", lambda value: any(numbers(_POSITIVE, n).holds(value) for n in (4, 5)))
_CLASSES = "[1, 100000]"


def _below(section: str, **limits: Any) -> dict[str, Limit]:
    return {f"{section}.{key}": limit for key, limit in limits.items()}


def _head(section: str, **limits: Any) -> dict[str, Limit]:
    """The keys that the heads on regions share, and their own."""
    shared = {"POOLER_RESOLUTION": "[1, 1024]", "POOLER_SAMPLING_RATIO": _NUMBER, "POOLER_TYPE": _POOLERS}
    return _below(section, **shared, **limits)


#: by whole key
INHERITED_LIMITS: dict[str, Limit] = {
    "VERSION": (2,),
    "OUTPUT_DIR": Form("a folder; '.' is the current one", lambda value: bool(value.strip()) and "\0" not in value),
    "SEED": "[-1, 18446744073709551615]",
    **_below("MODEL.PROPOSAL_GENERATOR", MIN_SIZE=_WEIGHT),
    **_below(
        "MODEL.ANCHOR_GENERATOR",
        SIZES=rows(_POSITIVE, "one list of sides in (0, inf) for each level, or one for all"),
        ASPECT_RATIOS=rows(_POSITIVE, "one list of ratios in (0, inf) for each level, or one for all"),
        ANGLES=rows("[-360, 360]", "one list of angles in [-360, 360] for each level, or one for all"),
        OFFSET="[0, 1)",
    ),
    **_below(
        "MODEL.RPN",
        BOUNDARY_THRESH="[-1, inf)",
        IOU_THRESHOLDS=_SHARE,
        IOU_LABELS=_LABELS,
        BATCH_SIZE_PER_IMAGE=_COUNT,
        POSITIVE_FRACTION=_SHARE,
        BBOX_REG_LOSS_TYPE=_BOX_LOSSES,
        BBOX_REG_LOSS_WEIGHT=_WEIGHT,
        BBOX_REG_WEIGHTS=_BOX_WEIGHTS,
        SMOOTH_L1_BETA=_WEIGHT,
        LOSS_WEIGHT=_WEIGHT,
        PRE_NMS_TOPK_TRAIN=_COUNT,
        PRE_NMS_TOPK_TEST=_COUNT,
        POST_NMS_TOPK_TRAIN=_COUNT,
        POST_NMS_TOPK_TEST=_COUNT,
        NMS_THRESH=_SHARE,
        CONV_DIMS=Form("-1 (as wide as the input) or widths in [1, 65536]", lambda value: all(v == -1 or 1 <= v <= 65536 for v in value)),
    ),
    **_below(
        "MODEL.ROI_HEADS",
        NUM_CLASSES=_CLASSES,
        IOU_THRESHOLDS=_SHARE,
        IOU_LABELS=_LABELS,
        BATCH_SIZE_PER_IMAGE=_COUNT,
        POSITIVE_FRACTION=_SHARE,
        SCORE_THRESH_TEST=_SHARE,
        NMS_THRESH_TEST=_SHARE,
    ),
    **_head(
        "MODEL.ROI_BOX_HEAD",
        BBOX_REG_LOSS_TYPE=_BOX_LOSSES,
        BBOX_REG_LOSS_WEIGHT=_WEIGHT,
        BBOX_REG_WEIGHTS=_BOX_WEIGHTS,
        SMOOTH_L1_BETA=_WEIGHT,
        NUM_FC=_NUMBER,
        FC_DIM=_WIDTH,
        NUM_CONV=_NUMBER,
        CONV_DIM=_WIDTH,
        NORM=NORM_NAMES,
        FED_LOSS_FREQ_WEIGHT_POWER=_WEIGHT,
        FED_LOSS_NUM_CLASSES=_COUNT,
    ),
    **_below(
        "MODEL.ROI_BOX_CASCADE_HEAD",
        BBOX_REG_WEIGHTS=rows(_BOX_WEIGHTS, "4 numbers in (0, inf) for each stage"),
        IOUS=_SHARE,
    ),
    **_head("MODEL.ROI_MASK_HEAD", NUM_CONV=_NUMBER, CONV_DIM=_WIDTH, NORM=NORM_NAMES),
    **_head("MODEL.ROI_KEYPOINT_HEAD", CONV_DIMS=_WIDTH, NUM_KEYPOINTS=_COUNT, MIN_KEYPOINTS_PER_IMAGE=_NUMBER, LOSS_WEIGHT=_WEIGHT),
    **_below(
        "MODEL.SEM_SEG_HEAD",
        IGNORE_VALUE="[0, 255]",
        NUM_CLASSES=_CLASSES,
        CONVS_DIM=_WIDTH,
        COMMON_STRIDE="[1, 128]",
        NORM=NORM_NAMES,
        LOSS_WEIGHT=_WEIGHT,
    ),
    **_below(
        "MODEL.PANOPTIC_FPN",
        **{"INSTANCE_LOSS_WEIGHT": _WEIGHT, "COMBINE.OVERLAP_THRESH": _SHARE, "COMBINE.STUFF_AREA_LIMIT": _WEIGHT},
        **{"COMBINE.INSTANCES_CONFIDENCE_THRESH": _SHARE},
    ),
    **_below(
        "MODEL.RETINANET",
        NUM_CLASSES=_CLASSES,
        NUM_CONVS=_NUMBER,
        IOU_THRESHOLDS=_SHARE,
        IOU_LABELS=_LABELS,
        PRIOR_PROB="(0, 1)",
        SCORE_THRESH_TEST=_SHARE,
        TOPK_CANDIDATES_TEST=_COUNT,
        NMS_THRESH_TEST=_SHARE,
        BBOX_REG_WEIGHTS=_BOX_WEIGHTS,
        FOCAL_LOSS_GAMMA=_WEIGHT,
        FOCAL_LOSS_ALPHA=_SHARE,
        SMOOTH_L1_LOSS_BETA=_WEIGHT,
        BBOX_REG_LOSS_TYPE=_BOX_LOSSES,
        NORM=NORM_NAMES,
    ),
    **_below("DATASETS", PRECOMPUTED_PROPOSAL_TOPK_TRAIN=_COUNT, PRECOMPUTED_PROPOSAL_TOPK_TEST=_COUNT),
}
