"""The objects of a dataset as a detector sees them: resized as for testing, without crowds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import BoxMode
from torch import Tensor

from detkit.structures import GroundTruth

__all__ = ["LabeledImage", "labeled_images"]


@dataclass(frozen=True)
class LabeledImage:
    """One image's objects.

    Attributes:
        size: (height, width) of the network's input in pixels, before padding.
        gt: a batch of one image; boxes in pixels of the network's input.
        areas: (G,) box areas in pixels of the original image, by which COCO tells sizes apart.
    """

    size: tuple[int, int]
    gt: GroundTruth
    areas: Tensor


def labeled_images(records: Sequence[dict[str, Any]], *, min_size: int = 800, max_size: int = 1333) -> Iterator[LabeledImage]:
    """The images that have objects.

    Args:
        records: Detectron2's dataset dicts, with ``height``, ``width`` and ``annotations``.
        min_size, max_size: the shorter side is resized to ``min_size`` pixels, the longer one is at most ``max_size``.
    """
    for record in records:
        annotations = [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]
        if not annotations:
            continue
        height, width = record["height"], record["width"]
        size = ResizeShortestEdge.get_output_shape(height, width, min_size, max_size)
        boxes = torch.tensor([BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations], dtype=torch.float32)
        scale = torch.tensor([size[1] / width, size[0] / height]).repeat(2)
        classes = torch.tensor([a["category_id"] for a in annotations])
        gt = GroundTruth((boxes * scale)[None], classes[None], torch.ones(1, len(classes), dtype=torch.bool))
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        yield LabeledImage(size, gt, areas)
