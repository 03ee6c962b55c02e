"""Random crops as in DETR and Sparse R-CNN."""

from __future__ import annotations

import sys
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T

from detkit.config import ConfigError

from .mapper import MAPPER_REGISTRY

__all__ = ["CropMapper"]


@MAPPER_REGISTRY.register()
class CropMapper(DatasetMapper):
    """Flips every image; resizes and crops every second one; resizes all to the sizes to train on.

    The crop (``INPUT.CROP.TYPE`` and ``SIZE``) is taken from the image at one of the shorter sides ``INPUT.CROP.MIN_SIZES``, so that
    it shows objects at other scales once it is resized like the rest (DETR, section A.4; PeizeSun/SparseR-CNN dataset_mapper.py).
    Objects that lie outside it are left out, those that are cut have their boxes cut.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        if cfg.INPUT.CROP.ENABLED:
            raise ConfigError(
                "INPUT.CROP.ENABLED crops every image of Detectron2's own mapper: leave it False with INPUT.MAPPER CropMapper."
            )
        arguments: dict[str, Any] = super().from_config(cfg, is_train)
        if is_train:
            resize, *flips = detection_utils.build_augmentation(cfg, is_train)
            crop = cfg.INPUT.CROP
            resize_and_crop = T.AugmentationList(
                [
                    T.ResizeShortestEdge(list(crop.MIN_SIZES), crop.MAX_SIZE or sys.maxsize, sample_style="choice"),
                    T.RandomCrop(crop.TYPE, list(crop.SIZE)),
                ]
            )
            arguments["augmentations"] = [*flips, T.RandomApply(resize_and_crop, prob=0.5), resize]
            arguments["recompute_boxes"] = cfg.MODEL.MASK_ON
        return arguments
