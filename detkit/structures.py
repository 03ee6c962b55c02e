"""The types that assigners, criteria, heads, post-processing, Sparse R-CNN and LSNet share.

Shapes used in the whole project:
    B: images of the batch;  G: ground-truth boxes per image, padded to the largest number in the batch;
    P: priors (anchors or points) of the grid, in the order of :mod:`detkit.geometry.grid`, or the predictions of a set predictor;
    A: anchors per location;  K: classes;  L: levels of the pyramid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.structures import Boxes, Instances
from torch import Tensor

from detkit.host import on_host, send

__all__ = ["DenseOutputs", "Detections", "GroundTruth", "HardAssignment", "Predictions", "output_sizes"]


@dataclass(frozen=True)
class GroundTruth:
    """The objects of a batch, padded to one shape.

    Attributes:
        boxes: (B, G, 4) xyxy in pixels of the network's input; zeros where padded.
        classes: (B, G) int64 in [0, K); 0 where padded.
        valid: (B, G) bool, False where padded.
        landmarks: (B, G, V, 3) x, y in pixels and visibility, for detectors that learn landmarks; else None.
    """

    boxes: Tensor
    classes: Tensor
    valid: Tensor
    landmarks: Tensor | None = None

    @classmethod
    def from_instances(
        cls, instances: list[Instances], device: torch.device | None = None, *, plus_one: float = 0.0, min_objects: int = 0
    ) -> GroundTruth:
        """Pads ``gt_boxes``, ``gt_classes`` and, if there, ``gt_landmarks`` of Detectron2 instances. Images without objects are allowed.

        Packed on the host and sent without waiting, see :func:`detkit.host.send`.

        Args:
            instances: per image, best on the host.
            device: where the objects are to lie; None: where those of the first image do.
            plus_one: subtracted from the far corners of the boxes, for models of inclusive corners.
            min_objects: least G.
        """
        device = device or instances[0].gt_classes.device
        room = max([min_objects, *(len(x) for x in instances)])
        boxes = [on_host(x.gt_boxes.tensor).astype(np.float32) for x in instances]
        if plus_one:
            boxes = [x - np.asarray([0, 0, plus_one, plus_one], np.float32) for x in boxes]
        classes = [on_host(x.gt_classes).astype(np.int64) for x in instances]
        parts: list[list[np.ndarray]] = [boxes, classes, [np.ones(len(x), bool) for x in classes]]
        if all(x.has("gt_landmarks") for x in instances):
            parts.append([on_host(x.gt_landmarks).astype(np.float32) for x in instances])
        return cls(*(send(_padded(part, room), device) for part in parts))


def _padded(rows: list[np.ndarray], room: int) -> np.ndarray:
    """(B, room, ...) of arrays (n, ...), zeros behind them."""
    padded = np.zeros((len(rows), room, *rows[0].shape[1:]), rows[0].dtype)
    for image, values in enumerate(rows):
        padded[image, : len(values)] = values
    return padded


@dataclass(frozen=True)
class Predictions:
    """What the detector predicts at this step, for assigners that read it. Detached where it is made, if no gradient is wanted.

    Attributes:
        logits: (B, P, K) class logits.
        boxes: (B, P, 4) decoded boxes xyxy in pixels.
        quality: (B, P) logits of centerness or IoU, or None.
        raw_boxes: (B, P, 4) what the regression branch gave for the boxes, or None where they come from elsewhere.
    """

    logits: Tensor
    boxes: Tensor
    quality: Tensor | None = None
    raw_boxes: Tensor | None = None


@dataclass(frozen=True)
class HardAssignment:
    """Each prior belongs to one object or to the background, or it is ignored.

    Attributes:
        gt_index: (B, P) int64, 0-based index into the padded objects of its image, -1 for no object.
        ignore: (B, P) bool, True for priors that take no part in any loss (RetinaNet's band between the two thresholds, cells beyond
            an image's own area); None: none. An ignored prior has ``gt_index`` -1.
    """

    gt_index: Tensor
    ignore: Tensor | None = None


@dataclass(frozen=True)
class DenseOutputs:
    """Raw outputs of a dense head, one map per level.

    Attributes:
        logits: per level (B, A*K, H, W) class logits.
        boxes: per level (B, A*4, H, W) raw regression; a box coder defines what it means.
        quality: per level (B, A, H, W) logits of centerness, or None.
    """

    logits: list[Tensor]
    boxes: list[Tensor]
    quality: list[Tensor] | None

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each level."""
        return tuple((x.shape[-2], x.shape[-1]) for x in self.logits)

    def flatten(self, num_classes: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits (B, P, K), boxes (B, P, 4) and quality (B, P) or None over all levels, in float32."""
        quality = None if self.quality is None else torch.cat(list(_rows_of(self.quality, 1)), dim=1).float().squeeze(-1)
        if self.logits[0].shape[1] == num_classes:  # the classes before the locations in memory, as in the maps
            logits = torch.cat([x.flatten(2) for x in self.logits], dim=2).transpose(1, 2)
        else:
            logits = torch.cat(list(self.logits_of_levels(num_classes)), dim=1)
        return logits.float(), self.flat_boxes(), quality

    def flat_boxes(self) -> Tensor:
        """Raw regression (B, P, 4) over all levels, in float32."""
        return torch.cat(list(_rows_of(self.boxes, 4)), dim=1).float()

    def logits_of_levels(self, num_classes: int) -> Iterator[Tensor]:
        """Logits (B, P_l, K) level by level, as the head gave them: views where each location has one anchor."""
        return _rows_of(self.logits, num_classes)

    def quality_of_levels(self) -> Iterator[Tensor] | None:
        """Quality (B, P_l) level by level, or None."""
        return None if self.quality is None else (x.squeeze(-1) for x in _rows_of(self.quality, 1))


def _rows_of(maps: list[Tensor], channels: int) -> Iterator[Tensor]:
    """(B, P_l, C) of the maps (B, A*C, H, W) of each level; views where there is one anchor, so that who joins them copies once."""
    for x in maps:
        yield x.flatten(2).transpose(1, 2) if x.shape[1] == channels else permute_to_N_HWA_K(x, channels)


@dataclass(frozen=True)
class Detections:
    """The detections of a batch in one shape, best first; rows from an image's count on are padding.

    Attributes:
        boxes: (B, D, 4) xyxy in pixels of the network's input; zeros where padded.
        scores: (B, D); zeros where padded.
        classes: (B, D) int64 in [0, K); -1 where padded.
        counts: (B,) int64, how many of the rows are detections.
        fields: anything else per detection, (B, D, ...) by name.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    counts: Tensor
    fields: dict[str, Tensor] = field(default_factory=dict)

    def resized(
        self, image_sizes: Sequence[tuple[int, int]], output_sizes: Sequence[tuple[int, int]], *, min_area: float = -1.0
    ) -> Detections:
        """In pixels of the output images, clipped to them, without boxes that are empty there or have no area above ``min_area``.

        Gives what Detectron2's ``detector_postprocess`` makes of each image, for all images at once and without waiting for the device.
        Fields stay as they are.

        Args:
            image_sizes: (height, width) of every image as the network saw it, without padding.
            output_sizes: (height, width) that is asked for.
            min_area: in square pixels of the output.
        """
        inputs, outputs = np.asarray(image_sizes, np.float64), np.asarray(output_sizes, np.float64)
        table = np.stack([outputs / inputs, outputs]).astype(np.float32)[..., [1, 0, 1, 0]]  # factors and limits of x, y, x, y
        factors, limits = send(table[:, :, None], self.boxes.device).unbind(0)
        boxes = (self.boxes * factors).clamp(min=0).minimum(limits)
        width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
        rows = torch.arange(boxes.shape[1], device=boxes.device)
        there = (width > 0) & (height > 0) & (width * height > min_area) & (rows < self.counts[:, None])
        order = (~there).to(torch.uint8).argsort(dim=1, stable=True)
        counts = there.sum(1)
        filled = rows < counts[:, None]
        fields = {name: value.gather(1, _broadcast(order, value)) for name, value in self.fields.items()}
        return Detections(
            boxes=torch.where(filled[..., None], boxes.gather(1, _broadcast(order, boxes)), 0.0),
            scores=torch.where(filled, self.scores.gather(1, order), 0.0),
            classes=torch.where(filled, self.classes.gather(1, order), -1),
            counts=counts,
            fields=fields,
        )

    def to_instances(self, image_sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        """Per image ``Instances`` with ``pred_boxes``, ``scores``, ``pred_classes`` and the fields. Waits for the device once.

        Args:
            image_sizes: (height, width) of every image, which the instances remember.
        """
        results = []
        for i, (image_size, count) in enumerate(zip(image_sizes, self.counts.tolist(), strict=True)):
            result = Instances(image_size)
            result.pred_boxes = Boxes(self.boxes[i, :count])
            result.scores = self.scores[i, :count]
            result.pred_classes = self.classes[i, :count]
            for name, value in self.fields.items():
                result.set(name, value[i, :count])
            results.append(result)
        return results


def output_sizes(batched_inputs: Sequence[dict[str, Any]], image_sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(height, width) in which the detections of each image are asked for: ``height`` and ``width`` of Detectron2's dicts, or the size that
    the network saw."""
    pairs = zip(batched_inputs, image_sizes, strict=True)
    return [(item.get("height", height), item.get("width", width)) for item, (height, width) in pairs]


def _broadcast(index: Tensor, values: Tensor) -> Tensor:
    """(B, D, ...) in the shape of values, of an index (B, D)."""
    return index.view(*index.shape, *[1] * (values.ndim - 2)).expand_as(values)
