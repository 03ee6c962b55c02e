"""Data: registration of COCO-format folders, the embedded `shapes`, checks before training, and the mapper.

Importing this package registers ``shapes_train`` and ``shapes_val``.
"""

from .checks import DataError, check_coco_folder
from .mapper import ReadErrorMapper, build_train_mapper
from .prepare import prepare_datasets
from .registration import find_image_folder, register_coco_folder, register_shapes, set_categories

__all__ = [
    "DataError",
    "ReadErrorMapper",
    "build_train_mapper",
    "check_coco_folder",
    "find_image_folder",
    "prepare_datasets",
    "register_coco_folder",
    "register_shapes",
    "set_categories",
]

register_shapes()
