"""What is checked about data before training starts, so that it fails at once and says why."""

from .annotations import AnnotationFile, class_names, id_order, open_annotations, read_coco_json, release_annotations, share_annotations
from .boxes import most_objects
from .check import CheckedData, check_coco_folder, without_images
from .errors import DataError, DataFault
from .json_file import require_regular_file
from .masks import find_mask_faults, usable_segmentation
from .schema import is_box
from .training import TrainingObjects, check_annotations_of_tasks, check_training_objects, training_objects

__all__ = [
    "AnnotationFile",
    "CheckedData",
    "DataError",
    "DataFault",
    "TrainingObjects",
    "check_annotations_of_tasks",
    "check_coco_folder",
    "check_training_objects",
    "class_names",
    "find_mask_faults",
    "id_order",
    "is_box",
    "most_objects",
    "open_annotations",
    "read_coco_json",
    "release_annotations",
    "require_regular_file",
    "share_annotations",
    "training_objects",
    "usable_segmentation",
    "without_images",
]
