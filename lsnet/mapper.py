"""Detectron2's mapper with landmarks in place of masks and keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data.detection_utils import create_keypoint_hflip_indices, filter_empty_instances
from detectron2.data.transforms import TransformList
from detectron2.structures import Boxes, BoxMode, Instances
from numpy.typing import NDArray

from detkit.config import ConfigError
from detkit.data import MAPPER_REGISTRY, Motion

from .finders import ContourFinder, ExtremePointFinder, KeypointFinder, LandmarkFinder
from .tasks import BoxSource, build_task

__all__ = ["LandmarkMapper", "keypoint_boxes"]

#: least side of a box around keypoints, in pixels: a single one would have none
_MIN_SIDE = 1.0


@MAPPER_REGISTRY.register()
class LandmarkMapper(DatasetMapper):
    """Prepares images for training LSNet.

    ``instances`` has ``gt_boxes``, ``gt_classes`` and ``gt_landmarks`` (N, V, 3): x, y in pixels of the augmented image, and visibility.
    Crowds are left out, as are objects that the augmentations moved out of the image.

    Args:
        finder: annotation to landmarks.
        box_source: what ``gt_boxes`` are: the annotated boxes (tightened where an object with a mask was cut or turned), the bounds of the
            landmarks, or those of the labeled keypoints; objects without any are then left out.
        **kwargs: as of Detectron2's mapper.
    """

    @configurable
    def __init__(self, is_train: bool = True, *, finder: LandmarkFinder, box_source: BoxSource = "object", **kwargs: Any) -> None:
        super().__init__(is_train, **kwargs)
        self.finder = finder
        self.box_source = box_source

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        task = build_task(cfg)
        finder: LandmarkFinder
        if task.name == "bbox":
            finder = ExtremePointFinder()
        elif task.name == "segm":
            finder = ContourFinder(task.landmarks.num_landmarks)
        else:
            finder = KeypointFinder(_mirrored_order(cfg.DATASETS.TRAIN, task.landmarks.num_landmarks))
        # the finders tighten boxes; Detectron2 would do it again, by masks that it does not load here
        inherited = {**super().from_config(cfg, is_train), "recompute_boxes": False}
        return {**inherited, "finder": finder, "box_source": task.box_source}

    def _transform_annotations(self, dataset_dict: dict[str, Any], transforms: TransformList, image_shape: tuple[int, int]) -> None:
        annotations = [a for a in dataset_dict.pop("annotations") if not a.get("iscrowd", 0)]
        motion = Motion(transforms, (dataset_dict["height"], dataset_dict["width"]), image_shape)
        annotated = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
        boxes = motion.boxes(np.array(annotated, dtype=np.float64).reshape(-1, 4))
        landmarks = np.zeros((len(annotations), self.finder.num_landmarks, 3))
        for index, annotation in enumerate(annotations):
            landmarks[index], boxes[index] = self.finder(annotation, boxes[index], motion)
        if self.box_source == "contour":
            boxes = np.concatenate([landmarks[..., :2].min(axis=1), landmarks[..., :2].max(axis=1)], axis=1)
        elif self.box_source == "keypoints":
            boxes = keypoint_boxes(landmarks)
        dataset_dict["instances"] = filter_empty_instances(_instances(annotations, boxes, landmarks, image_shape))


def _mirrored_order(dataset_names: Sequence[str], num_keypoints: int) -> list[int]:
    """Which keypoint takes the place of each in a mirrored image.

    Raises:
        ConfigError: a dataset without keypoints, or with another number of them than the model has.
    """
    for name in dataset_names:
        found = len(MetadataCatalog.get(name).get("keypoint_names", ()))
        if found != num_keypoints:
            raise ConfigError(
                f"MODEL.LSNET.TASK 'pose' learns {num_keypoints} keypoints (MODEL.LSNET.NUM_KEYPOINTS), but the dataset {name} names "
                f"{found} ('keypoints' of a category in its annotations). Set the key to that number, or take another dataset or task."
            )
    return create_keypoint_hflip_indices(list(dataset_names))


def _instances(
    annotations: list[dict[str, Any]], boxes: NDArray[np.float64], landmarks: NDArray[np.float64], image_size: tuple[int, int]
) -> Instances:
    instances = Instances(image_size)
    instances.gt_boxes = Boxes(torch.from_numpy(boxes))
    instances.gt_classes = torch.tensor([int(a["category_id"]) for a in annotations], dtype=torch.int64)
    instances.gt_landmarks = torch.from_numpy(landmarks).float()
    return instances


def keypoint_boxes(keypoints: NDArray[np.float64]) -> NDArray[np.float64]:
    """The bounds (N, 4) of the labeled keypoints of (N, V, 3), at least a pixel wide and high; all zero where none is labeled."""
    labeled = keypoints[..., 2:] > 0
    known = labeled.any(axis=1)
    low = np.where(known, np.where(labeled, keypoints[..., :2], np.inf).min(axis=1), 0)
    high = np.where(known, np.where(labeled, keypoints[..., :2], -np.inf).max(axis=1), 0)
    missing = known * np.maximum(_MIN_SIDE - (high - low), 0) / 2
    return np.concatenate([low - missing, high + missing], axis=1)
