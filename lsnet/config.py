"""The keys of LSNet, the values that they may have, and when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode as CN

from detkit.config import Limit, Section, number_or_none

__all__ = ["CONFIG_LIMITS", "LIMITS", "READ_WITH", "add_config", "check_config"]


def add_config(cfg: CN) -> None:
    """Adds ``MODEL.LSNET``: boxes by extreme points, as in the official code (Duankaiwen/LSNet) and sections 3 and 4.2."""
    cfg.register_renamed_key("MODEL.LSNET.TASK", "MODEL.LSNET.TASKS", 'it is a list now: TASK: "segm" becomes TASKS: ["segm"].')
    node = cfg.MODEL.LSNET = CN()
    # "bbox", "segm", "pose": one, or several at once, which share towers, boxes and assignment (not in the paper)
    node.TASKS = ["bbox"]
    node.NUM_CLASSES = 80
    node.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    node.BOX_STYLE = "extreme"  # "rectangle": vectors straight to the box sides (table 2)
    node.CONTOUR_LANDMARKS = 36
    # which boxes are assigned for masks: "contour", the bounds of the largest part (official code), or "object", the annotated ones
    node.SEGM_BOX = "contour"
    node.NUM_KEYPOINTS = 17
    # which boxes are assigned for poses: "object", learned beside the keypoints, or "keypoints", their bounds (appendix B)
    node.POSE_BOX = "object"
    node.GRID_OFFSET = 0.0  # of an anchor point in its cell
    # leave out cells beyond an image's own padded area, where images of a batch differ in size
    node.IGNORE_PADDING = True
    node.INIT_ASSIGNER = "CentroidAssigner"
    node.ASSIGNER = "PredictedATSSAssigner"  # of the second stage

    node.HEAD = CN()
    node.HEAD.CHANNELS = 256
    node.HEAD.NUM_CONVS = 3  # of each tower
    node.HEAD.NORM = "GN"
    node.HEAD.DEFORMABLE_TOWERS = True  # modulated, all convolutions; slow on a CPU
    node.HEAD.STAGES = 2  # 1: the classes come from the first stage (table 2)
    # what the second stage reads beside the anchor point: "point" (nothing), "landmark", "pyramid" (tables 3), "learned" (figure 4)
    node.HEAD.FEATURES = "pyramid"
    # how offsets become offsets on neighboring levels: "official" (accumulated) or "ideal"
    node.HEAD.LEVEL_SCALES = "official"
    node.HEAD.GRADIENT_SHARE = 0.1  # of the gradient of kernel positions that the first stage gets
    node.HEAD.PRIOR_PROB = 0.01
    # half the size in cells of an object that the first stage starts from, for short trainings; 0: as the official code
    node.HEAD.START_SIZE = 0.0

    node.CPV = CN()  # corner point verification
    node.CPV.ENABLED = False
    node.CPV.POOLED_CHANNELS = 64
    node.CPV.NUM_CONVS = 1  # before the pooling

    node.LOSS = CN()
    node.LOSS.VECTOR = "cross_iou"  # "smooth_l1", "giou" (table 2)
    # "official": grouped components, and for boxes and contours two penalties more; "paper": equation 1
    node.LOSS.CROSS_IOU = "official"
    node.LOSS.ALPHA = 0.2  # appendix A
    node.LOSS.SMOOTH_L1_BETA = 1 / 9  # in units of four strides
    node.LOSS.INIT_WEIGHT = 1.0
    node.LOSS.REFINE_WEIGHT = 2.0
    node.LOSS.BOX_FACTOR = 0.1  # further factor of the object boxes that are learned beside a pose
    node.LOSS.FOCAL_ALPHA = 0.25
    node.LOSS.FOCAL_GAMMA = 2.0

    node.TEST = CN()
    node.TEST.SCORE_THRESH = 0.05
    node.TEST.TOPK_PER_LEVEL = 1000  # the official code takes 100 for poses, and 20 per image
    node.TEST.NMS_THRESH = 0.6  # none: no suppression
    node.TEST.MIN_AREA = 0.0  # of a detection's box, in square pixels of the original image; official code: 1024 for poses


#: what a value may be, by key below ``MODEL.LSNET``; assigners and pyramid levels are checked where they are built
LIMITS: Mapping[str, Limit] = {
    "TASKS": ("bbox", "segm", "pose"),
    "NUM_CLASSES": "[1, 100000]",
    "BOX_STYLE": ("extreme", "rectangle"),
    "CONTOUR_LANDMARKS": "[9, 10000]",
    "SEGM_BOX": ("contour", "object"),
    "NUM_KEYPOINTS": "[1, 10000]",
    "POSE_BOX": ("object", "keypoints"),
    "GRID_OFFSET": "[0, 1]",
    "HEAD.CHANNELS": "[1, 65536]",
    "HEAD.NUM_CONVS": "[0, 1000]",
    "HEAD.NORM": ("", "BN", "FrozenBN", "GN", "LN", "SyncBN", "naiveSyncBN", "naiveSyncBN_N", "nnSyncBN"),
    "HEAD.STAGES": "[1, 2]",
    "HEAD.FEATURES": ("point", "landmark", "pyramid", "learned"),
    "HEAD.LEVEL_SCALES": ("official", "ideal"),
    "HEAD.GRADIENT_SHARE": "[0, 1]",
    "HEAD.PRIOR_PROB": "(0, 1)",
    "HEAD.START_SIZE": "[0, inf)",
    "CPV.POOLED_CHANNELS": "[1, 65536]",
    "CPV.NUM_CONVS": "[0, 1000]",
    "LOSS.VECTOR": ("cross_iou", "smooth_l1", "giou"),
    "LOSS.CROSS_IOU": ("official", "paper"),
    "LOSS.ALPHA": "[0, 1)",
    "LOSS.SMOOTH_L1_BETA": "[0, inf)",
    "LOSS.INIT_WEIGHT": "[0, inf)",
    "LOSS.REFINE_WEIGHT": "[0, inf)",
    "LOSS.BOX_FACTOR": "[0, inf)",
    "LOSS.FOCAL_ALPHA": "[-1, 1]",  # negative: no weighting
    "LOSS.FOCAL_GAMMA": "[0, inf)",
    "TEST.SCORE_THRESH": "[0, 1]",
    "TEST.TOPK_PER_LEVEL": "[1, inf)",
    "TEST.NMS_THRESH": number_or_none("[0, 1]"),
    "TEST.MIN_AREA": "[0, inf)",
}
#: the same by section, for :func:`detkit.config.check_config`
CONFIG_LIMITS = {"MODEL.LSNET": LIMITS}

#: keys that are read only where another key has one of these values, or a list has one among its own; elsewhere they have to keep their
#: defaults
READ_WITH: Mapping[str, Mapping[str, Sequence[object]]] = {
    "BOX_STYLE": {"TASKS": ("bbox",)},
    "CONTOUR_LANDMARKS": {"TASKS": ("segm",)},
    "SEGM_BOX": {"TASKS": ("segm",)},
    "NUM_KEYPOINTS": {"TASKS": ("pose",)},
    "POSE_BOX": {"TASKS": ("pose",)},
    "ASSIGNER": {"HEAD.STAGES": (2,)},
    "HEAD.LEVEL_SCALES": {"HEAD.STAGES": (2,), "HEAD.FEATURES": ("pyramid",)},
    "HEAD.GRADIENT_SHARE": {"HEAD.STAGES": (2,), "HEAD.FEATURES": ("landmark", "pyramid")},
    "CPV.ENABLED": {"TASKS": ("bbox",), "HEAD.STAGES": (2,)},
    "CPV.POOLED_CHANNELS": {"CPV.ENABLED": (True,)},
    "CPV.NUM_CONVS": {"CPV.ENABLED": (True,)},
    "LOSS.CROSS_IOU": {"LOSS.VECTOR": ("cross_iou",)},
    "LOSS.ALPHA": {"LOSS.VECTOR": ("cross_iou", "smooth_l1")},
    "LOSS.SMOOTH_L1_BETA": {"LOSS.VECTOR": ("smooth_l1",)},
    "LOSS.REFINE_WEIGHT": {"HEAD.STAGES": (2,)},
    "LOSS.BOX_FACTOR": {"TASKS": ("pose",), "POSE_BOX": ("object",)},
}
#: keys of single tasks, which nothing reads where several are learned
SINGLE_TASK_KEYS = ("SEGM_BOX", "POSE_BOX", "CPV.ENABLED")


def check_config(cfg: CN) -> None:
    """Checks the values of ``MODEL.LSNET``, and that keys which nothing reads keep their defaults.

    Raises:
        ConfigError: names the whole key, the value and what is allowed.
    """
    section = Section(cfg, "MODEL.LSNET")
    section.check(LIMITS)
    _check_tasks(section)
    blank = CN({"MODEL": CN()})
    add_config(blank)
    defaults = Section(blank, "MODEL.LSNET")
    for key, readers in READ_WITH.items():
        default = defaults.value(key)
        if section.value(key) != default and not all(_has_one_of(section.value(other), values) for other, values in readers.items()):
            conditions = " and ".join(f"{other} {' or '.join(map(repr, values))}" for other, values in readers.items())
            raise section.refusal(key, f"{default!r}, its default: it is read only with {conditions}")
    if section.HEAD.STAGES == 1 and section.HEAD.FEATURES not in (defaults.HEAD.FEATURES, "point"):
        raise section.refusal("HEAD.FEATURES", "'point' with HEAD.STAGES 1: only the second stage reads features at landmarks")


def _check_tasks(section: Section) -> None:
    """What lists of tasks have to be, and keys that only single ones read."""
    tasks = section.TASKS
    if not tasks or len({*tasks}) < len(tasks):
        raise section.refusal("TASKS", "a list of one or more of 'bbox', 'segm' and 'pose', each once")
    if len(tasks) > 1:
        section.refuse_unread(SINGLE_TASK_KEYS, f"a detector of several TASKS, here {', '.join(tasks)},")
        section.refuse_unread(["LOSS.BOX_FACTOR"] * ("bbox" in tasks), "a detector with 'bbox' among its TASKS")


def _has_one_of(value: object, allowed: Sequence[object]) -> bool:
    return any(one in allowed for one in (value if isinstance(value, (list, tuple)) else [value]))
