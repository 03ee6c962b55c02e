"""An exported file in the place of a model: what evaluates one evaluates the other."""

from __future__ import annotations

import os
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from detkit.geometry import fill_polygons
from detkit.onnx_predictor import OnnxDetections, OnnxPredictor

__all__ = ["OnnxModel", "to_instances"]


class OnnxModel(nn.Module):
    """Detectron2's interface of a model in evaluation, on onnxruntime.

    Args:
        file: written by ``tools/export.py``.
        threads: of onnxruntime; None: its own choice.
    """

    def __init__(self, file: str | os.PathLike[str], *, threads: int | None = None) -> None:
        super().__init__()
        self.predictor = OnnxPredictor(file, threads=threads)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Per image ``{"instances": ...}`` in pixels of the output size (``height``, ``width``).

        Args:
            batched_inputs: with ``image`` (3, H, W) in the file's channel order and the size of testing, as Detectron2's mapper gives it.
        """
        images = [item["image"].permute(1, 2, 0).numpy() for item in batched_inputs]
        results = []
        for item, found in zip(batched_inputs, self.predictor.run(images), strict=True):
            size = (item.get("height", found.image_size[0]), item.get("width", found.image_size[1]))
            results.append({"instances": to_instances(self.predictor.scaled(found, size))})
        return results


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
