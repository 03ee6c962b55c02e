"""What is checked about data before training starts, so that it fails at once and says why."""

from .check import CheckedData, check_coco_folder, write_json
from .coco_format import read_coco_json
from .errors import DataError

__all__ = ["CheckedData", "DataError", "check_coco_folder", "read_coco_json", "write_json"]
