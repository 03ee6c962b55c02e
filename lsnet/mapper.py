"""Detectron2's mapper with landmarks in place of masks and keypoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import filter_empty_instances
from detectron2.data.transforms import TransformList
from detectron2.structures import Boxes, BoxMode, Instances

from detkit.data import MAPPER_REGISTRY, Motion

from .finders import LandmarkFinder
from .several_tasks import build_task

__all__ = ["LandmarkMapper"]


@MAPPER_REGISTRY.register()
class LandmarkMapper(DatasetMapper):
    """Prepares images for training LSNet.

    ``instances`` has ``gt_boxes``, ``gt_classes`` and ``gt_landmarks`` (N, V, 3): x, y in pixels of the augmented image, and visibility.
    Crowds are left out, as are objects that the augmentations moved out of the image.

    Args:
        finder: annotation to landmarks, and to the box that stands for the object; an object without a box is left out.
        **kwargs: as of Detectron2's mapper.
    """

    @configurable
    def __init__(self, is_train: bool = True, *, finder: LandmarkFinder, **kwargs: Any) -> None:
        super().__init__(is_train, **kwargs)
        self.finder = finder

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        # the finders tighten boxes; Detectron2 would do it again, by masks that it does not load here
        inherited = {**super().from_config(cfg, is_train), "recompute_boxes": False}
        return {**inherited, "finder": build_task(cfg).finder(cfg.DATASETS.TRAIN)}

    def _transform_annotations(self, dataset_dict: dict[str, Any], transforms: TransformList, image_shape: tuple[int, int]) -> None:
        annotations = [a for a in dataset_dict.pop("annotations") if not a.get("iscrowd", 0)]
        motion = Motion(transforms, (dataset_dict["height"], dataset_dict["width"]), image_shape)
        annotated = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
        boxes = motion.boxes(np.array(annotated, dtype=np.float64).reshape(-1, 4))
        landmarks = np.zeros((len(annotations), self.finder.num_landmarks, 3))
        for index, annotation in enumerate(annotations):
            landmarks[index], boxes[index] = self.finder(annotation, boxes[index], motion)
        instances = Instances(image_shape, gt_boxes=Boxes(torch.from_numpy(boxes)), gt_landmarks=torch.from_numpy(landmarks).float())
        instances.gt_classes = torch.tensor([int(a["category_id"]) for a in annotations], dtype=torch.int64)
        dataset_dict["instances"] = filter_empty_instances(instances)
