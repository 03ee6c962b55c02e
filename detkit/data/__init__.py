"""Data: registration of COCO-format folders, the embedded `shapes`, checks before training, and the mapper.

Importing this package registers ``shapes_train`` and ``_val``, ``shapes_people_train`` and ``_val``, ``crowdhuman_train`` and ``_val``.
"""

from .checks import (
    DataError,
    check_coco_folder,
    class_names,
    id_order,
    is_box,
    most_objects,
    read_coco_json,
    release_annotations,
    require_regular_file,
    usable_segmentation,
    without_images,
)
from .copies import write_copies
from .crop import CropMapper
from .crowdhuman import load_crowdhuman, read_odgt, register_crowdhuman, register_crowdhuman_splits
from .keypoints import connection_rules
from .mapper import MAPPER_REGISTRY, UNREADABLE, ReadErrorMapper, build_test_mapper, build_train_mapper
from .motion import Motion
from .pixels import FastAugmentations, transformed_pixels
from .polygons import Polygon, mask_to_polygons, polygon_bounds, polygons_of, signed_area, visible_parts
from .prepare import check_data_keys, prepare_datasets
from .reading import DeepImages, ImageReadError, pixels_of, read_image
from .registration import find_image_folder, is_published, register_coco_folder, register_shapes, set_categories

__all__ = [
    "MAPPER_REGISTRY",
    "UNREADABLE",
    "CropMapper",
    "DataError",
    "DeepImages",
    "FastAugmentations",
    "ImageReadError",
    "Motion",
    "Polygon",
    "ReadErrorMapper",
    "build_test_mapper",
    "build_train_mapper",
    "check_coco_folder",
    "check_data_keys",
    "class_names",
    "connection_rules",
    "find_image_folder",
    "id_order",
    "is_box",
    "is_published",
    "load_crowdhuman",
    "mask_to_polygons",
    "most_objects",
    "pixels_of",
    "polygon_bounds",
    "polygons_of",
    "prepare_datasets",
    "write_copies",
    "read_coco_json",
    "read_image",
    "read_odgt",
    "register_coco_folder",
    "register_crowdhuman",
    "register_crowdhuman_splits",
    "register_shapes",
    "release_annotations",
    "require_regular_file",
    "set_categories",
    "signed_area",
    "transformed_pixels",
    "usable_segmentation",
    "visible_parts",
    "without_images",
]

register_shapes()
register_crowdhuman_splits()
