"""Data: registration of COCO-format folders, the embedded `shapes`, checks before training, and the mapper.

Importing this package registers ``shapes_train`` and ``shapes_val``.
"""

from .registration import find_image_folder, register_coco_folder, register_shapes, set_categories

__all__ = ["find_image_folder", "register_coco_folder", "register_shapes", "set_categories"]

register_shapes()
