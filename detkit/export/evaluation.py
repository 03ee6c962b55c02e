"""An exported file in the place of a model: what evaluates one evaluates the other."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from torch import nn

from detkit.config import ConfigError
from detkit.geometry import fill_polygons
from detkit.onnx_predictor import OnnxDetections, OnnxPredictor

__all__ = ["OnnxModel", "to_instances"]

logger = logging.getLogger(__name__)


class OnnxModel(nn.Module):
    """Detectron2's interface of a model in evaluation, on onnxruntime. It has no parameters.

    Args:
        file: written by ``tools/export.py``.
        threads: of onnxruntime; None: its own choice.
    """

    def __init__(self, file: str | os.PathLike[str], *, threads: int | None = None) -> None:
        super().__init__()
        self.file = os.fspath(file)
        self.predictor = OnnxPredictor(file, threads=threads)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Per image ``{"instances": ...}`` in pixels of the output size (``height``, ``width``).

        Args:
            batched_inputs: with ``image`` (3, H, W) in the file's channel order, as Detectron2's mapper gives it; in the size of testing
                where the file takes any size, in any size where it takes one.
        """
        images = [item["image"].permute(1, 2, 0).numpy() for item in batched_inputs]
        if self.predictor.metadata["size"]:
            images = [self.predictor.resized(image) for image in images]
        results = []
        for item, found in zip(batched_inputs, self.predictor.run(images), strict=True):
            size = (item.get("height", found.image_size[0]), item.get("width", found.image_size[1]))
            results.append({"instances": to_instances(self.predictor.scaled(found, size))})
        return results

    def adapt_config(self, cfg: CfgNode) -> None:
        """Makes a config, in place, hand images over as the file takes them.

        Args:
            cfg: whose datasets are prepared.

        Raises:
            ConfigError: the file was made for another order of channels, or for other classes.
        """
        file, stored = self.file, self.predictor.metadata
        if stored["input_format"] != cfg.INPUT.FORMAT:
            raise ConfigError(
                f"INPUT.FORMAT is {cfg.INPUT.FORMAT}, but {file} takes {stored['input_format']}: name the config of its model."
            )
        for name in cfg.DATASETS.TEST:
            known = MetadataCatalog.get(name).get("thing_classes")
            ours = self.predictor.class_names
            if known is not None and list(known) != ours:
                raise ConfigError(f"DATASETS.TEST {name} has the classes {_some(known)}, but {file} finds {_some(ours)}.")
        sides = stored["min_size"], stored["max_size"]
        if stored["size"]:  # the mapper hands images over as they are, and the predictor resizes them
            cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 0, sides[1]
        elif sides != (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST):
            chosen = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
            logger.warning("%s was made for INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST %s, %s; it is evaluated at %s, %s.", file, *sides, *chosen)


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:4])}{', ...' * (len(names) > 4)} ({len(names)})"


def to_instances(found: OnnxDetections) -> Instances:
    """Detections of an exported file in the form that those of its model have."""
    result = Instances(found.image_size)
    result.pred_boxes = Boxes(torch.from_numpy(found.boxes))
    result.scores = torch.from_numpy(found.scores)
    result.pred_classes = torch.from_numpy(found.classes)
    landmarks = {task: torch.from_numpy(points) for task, points in found.landmarks.items()}
    if "bbox" in landmarks:
        result.pred_extreme_points = landmarks["bbox"]
    if "segm" in landmarks:
        result.pred_polygons = landmarks["segm"]
        result.pred_masks = fill_polygons(landmarks["segm"], *found.image_size)
    if "pose" in landmarks:
        scores = result.scores[:, None, None].expand(-1, landmarks["pose"].shape[1], 1)
        result.pred_keypoints = torch.cat([landmarks["pose"], scores], dim=-1)
    return result
