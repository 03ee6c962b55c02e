"""The keys of :mod:`detkit.data`."""

from __future__ import annotations

import re
from typing import Any

from detectron2.config import CfgNode

from .limits import NAMES, Form, Limit, allowed_values, numbers

__all__ = ["DATA_LIMITS", "add_data_config"]

#: pixels of a side: less than a cell of any pyramid, and the most that Pillow and OpenCV resize to
_LEAST, _LARGEST = 8, 32767


def _is_shorter_side(value: Any) -> bool:
    sides = value if isinstance(value, (list, tuple)) else [value]
    return all(side == 0 or allowed_values(side, f"[{_LEAST}, {_LARGEST}]") is None for side in sides)


_SHORTER_SIDE = Form(f"in [{_LEAST}, {_LARGEST}] pixels, or 0 for images in the size of their files", _is_shorter_side)
#: what the keys of data and loader may be, by section
DATA_LIMITS: dict[str, dict[str, Limit]] = {
    "DATASETS": {
        "ON_BAD_IMAGE": ("error", "skip"),
        "ON_BAD_BOX": ("error", "fix"),
        **dict.fromkeys(("TRAIN", "TEST", "PROPOSAL_FILES_TRAIN", "PROPOSAL_FILES_TEST", "CLASS_NAMES", "KEYPOINT_NAMES"), NAMES),
        # files are named after it
        "NAME": Form(
            "a name without slashes, at most 100 letters, digits, '_', '-', '.' and spaces, for files are called by it",
            lambda name: re.fullmatch(r"\w[\w .-]{0,99}", name) is not None,
        ),
    },
    "DATALOADER": {
        "NUM_WORKERS": "[0, inf)",
        "SAMPLER_TRAIN": ("TrainingSampler", "RepeatFactorTrainingSampler"),
        "REPEAT_THRESHOLD": "[0, 1]",
    },
    "INPUT": {
        **dict.fromkeys(("MAX_SIZE_TRAIN", "MAX_SIZE_TEST", "CROP.MIN_SIZES"), f"[{_LEAST}, {_LARGEST}]"),
        **dict.fromkeys(("MIN_SIZE_TRAIN", "MIN_SIZE_TEST"), _SHORTER_SIDE),
        "FORMAT": ("BGR", "RGB", "L", "YUV-BT.601"),
        "DEEP_IMAGES": ("error", "full_range", "own_range"),
        "RESIZE": ("torch", "pillow"),
        "MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
        "RANDOM_FLIP": ("horizontal", "vertical", "none"),
        "CROP.TYPE": ("relative", "relative_range", "absolute", "absolute_range"),
        "CROP.MAX_SIZE": f"[0, {_LARGEST}]",
        "CROP.SIZE": numbers("(0, inf)", 2),
        "MASK_FORMAT": ("polygon", "bitmask"),
    },
}


def add_data_config(cfg: CfgNode) -> None:
    """Adds the keys of own data and of the checks before training.

    Own data in COCO format needs no Python: ``DATASETS.TRAIN_JSON train.json DATASETS.VAL_JSON val.json`` on the command line.
    """
    datasets = cfg.DATASETS
    # COCO-format annotation files; when set, they take the place of DATASETS.TRAIN and DATASETS.TEST
    datasets.TRAIN_JSON = ""
    datasets.VAL_JSON = ""
    # folders of their images; "": the json's own folder, its parent, or the folder of the json's name beside the json's folder
    datasets.TRAIN_IMAGES = ""
    datasets.VAL_IMAGES = ""
    # they are registered as <NAME>_train and <NAME>_val
    datasets.NAME = "custom"

    # names of the classes, and of the keypoints, in their order: training takes them from its data, so that the config of a run has them
    datasets.CLASS_NAMES = []
    datasets.KEYPOINT_NAMES = []
    # take the model's number of classes from the data where no config file and no override has chosen one
    datasets.INFER_NUM_CLASSES = True
    # images that are missing, unreadable or of another size than annotated: "error" before training starts, or "skip": train and
    # evaluate without them, with their number and names in the log
    datasets.ON_BAD_IMAGE = "error"
    # boxes that are empty, not finite or not inside their image: "error", or "fix": clip them, leave out those that are then empty
    datasets.ON_BAD_BOX = "error"
    # read every pixel of every image before training, not only what tells size and completeness
    datasets.CHECK_PIXELS = False

    # images without objects train: they teach what is background (Detectron2 leaves them out)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    # batches wait in pinned memory, from which a GPU takes them while it computes; nothing without a GPU
    cfg.DATALOADER.PIN_MEMORY = True
    # the data workers of a test set stay for the next evaluation of the run; those of the training stay in any case
    cfg.DATALOADER.PERSISTENT_WORKERS = False

    # images of more than 8 bits per channel: "error"; "full_range": scale 0 to 65535 (16 bits), 0 to 2**31 - 1 (32 bits) or 0 to 1
    # (floating point) to 0..255; "own_range": scale the values of each image
    cfg.INPUT.DEEP_IMAGES = "error"
    # who resizes images: "torch", in a fifth of the time; or "pillow", as Detectron2 does. They differ by rounding
    cfg.INPUT.RESIZE = "torch"
    # what prepares an image and its annotations for training; the configs of LSNet name its "LandmarkMapper"
    cfg.INPUT.MAPPER = "DatasetMapper"
    # "CropMapper": shorter sides at which every second image is cropped (DETR, Sparse R-CNN), by INPUT.CROP.TYPE and SIZE
    cfg.INPUT.CROP.MIN_SIZES = [400, 500, 600]
    cfg.INPUT.CROP.MAX_SIZE = 0  # bound of the longer side at that, 0 for none; mmdetection's Sparse R-CNN: 1333
