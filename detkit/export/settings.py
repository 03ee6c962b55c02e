"""What an exported file is to be like, and what it says of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

import detkit

__all__ = ["LEAST_SIDE", "ExportError", "ExportSettings", "metadata_of"]

#: least height and width of images for programs of dynamic size: below it a pyramid up to stride 128 has a level of one row
LEAST_SIDE = 129


class ExportError(RuntimeError):
    """A detector that cannot be exported as asked, or a file that does not give the detections of its model."""


@dataclass(frozen=True)
class ExportSettings:
    """What is asked for.

    Attributes:
        size: (height, width) of the images in pixels; None: any from 129 pixels a side.
        batch: images at a time; None: any number.
        raw: the network's maps instead of detections.
        opset: of ONNX, at least 20, from which on GridSample and DeformConv exist.
    """

    size: tuple[int, int] | None = None
    batch: int | None = None
    raw: bool = False
    opset: int = 20

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 32:
            raise ExportError(f"size is {self.size[0]}x{self.size[1]}; images need 32 pixels a side at least.")
        if self.batch is not None and self.batch < 1:
            raise ExportError(f"batch is {self.batch}; it is the number of images at a time, 1 or more.")
        if self.opset < 20:
            raise ExportError(f"opset is {self.opset}; detectors need 20 or more (DeformConv from 19, GridSample in this form from 20).")

    def example(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and image sizes to trace with: where a size is free, one that does not suggest a constant."""
        batch, (height, width) = self.batch or 2, self.size or (288, 352)
        images = 255 * torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
        return images, torch.tensor([[height, width]] * batch)

    def dynamic_shapes(self) -> tuple[dict[int, Any], dict[int, Any]]:
        """For ``torch.export``."""
        batch = {} if self.batch else {0: torch.export.Dim("batch", min=1, max=256)}
        if self.size:
            return batch, batch
        sides = {axis: torch.export.Dim(name, min=LEAST_SIDE, max=8192) for axis, name in ((2, "height"), (3, "width"))}
        return batch | sides, batch


def metadata_of(
    cfg: CfgNode,
    model: nn.Module,
    settings: ExportSettings,
    class_names: list[str],
    name: str,
    *,
    category_ids: list[int] | None = None,
    keypoint_names: list[str] | None = None,
) -> dict[str, str]:
    """What a runtime has to know besides the graph, as text; numbers and lists in json.

    Args:
        class_names: in the order of the classes.
        name: of the model.
        category_ids: of the classes in the json of their dataset, where it is known.
        keypoint_names: of a model of poses, where they are known.
    """
    task = getattr(model, "task", None)
    learned = [part.name for part in task.parts] if task is not None else [None]
    values = {
        "detkit_version": detkit.__version__,
        "model": name,
        "meta_architecture": cfg.MODEL.META_ARCHITECTURE,
        "class_names": class_names,
        "category_ids": category_ids,
        "keypoint_names": keypoint_names,
        "input_format": cfg.INPUT.FORMAT,
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        "size": settings.size,
        "batch": settings.batch,
        "raw": settings.raw,
        "landmarks": learned[0] if len(learned) == 1 else learned,
        "min_area": getattr(model, "min_area", 0.0),
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
