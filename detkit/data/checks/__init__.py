"""What is checked about data before training starts, so that it fails at once and says why."""

from .annotations import AnnotationFile, class_names, id_order, read_coco_json, release_annotations, share_annotations
from .check import CheckedData, check_coco_folder
from .errors import DataError, DataFault
from .masks import find_mask_faults, usable_segmentation
from .schema import is_box

__all__ = [
    "AnnotationFile",
    "CheckedData",
    "DataError",
    "DataFault",
    "check_coco_folder",
    "class_names",
    "find_mask_faults",
    "id_order",
    "is_box",
    "read_coco_json",
    "release_annotations",
    "share_annotations",
    "usable_segmentation",
]
