"""What several weightings make of the same object: maps of score, IoU, positive and negative weight (DW, figure 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.evaluation.evaluator import inference_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from detkit.assigners import BagAssignment, SoftAssignment
from detkit.dense import DenseDetector
from detkit.geometry import Priors, elementwise_iou
from detkit.structures import GroundTruth, HardAssignment, Predictions
from detkit.visualization.pictures import RGBImage

__all__ = ["WeightMaps", "plot_weight_maps", "weight_maps"]

#: of the object's size, shown around it
MARGIN = 0.35


@dataclass(frozen=True)
class WeightMaps:
    """One weighting's view of one object, per level of the pyramid a map (H, W) over the whole image.

    Attributes:
        score: probability of the object's class, times quality where the head has it.
        iou: of the predicted box with the object.
        positive: what ``-ln(s)`` is multiplied by; 0 where the location is no candidate of the object.
        negative: what ``-ln(1 - s)`` of the object's class is multiplied by.
    """

    score: list[Tensor]
    iou: list[Tensor]
    positive: list[Tensor]
    negative: list[Tensor]

    @property
    def main_level(self) -> int:
        """Number of the level with the largest sum of positive weights."""
        return int(torch.stack([level.sum() for level in self.positive]).argmax())


@torch.no_grad()
def weight_maps(model: DenseDetector, batched_input: dict[str, Any], *, gt_index: int = 0) -> WeightMaps:
    """Runs a detector and its own assigner on one image.

    Args:
        model: on any device; its mode and statistics are left as they are.
        batched_input: as for training, with ``image`` and ``instances``.
        gt_index: of the object.

    Raises:
        ValueError: the image has no such object.
    """
    if not 0 <= gt_index < len(batched_input["instances"]):
        raise ValueError(f"The image has {len(batched_input['instances'])} objects: there is no number {gt_index}.")
    with inference_context(model):
        images = model.preprocess_image([batched_input])
        predictions, priors = model.pipeline.decode(model.predict(images))
        gt = model.ground_truth([batched_input["instances"].to(images.tensor.device)])
        assignment = model.pipeline.assign(priors, gt, predictions, images.image_sizes)
    if isinstance(assignment, HardAssignment):
        assignment = SoftAssignment.from_hard(assignment, gt, predictions)
    return _maps(predictions, assignment, gt, priors, gt_index)


def _maps(
    predictions: Predictions, assignment: SoftAssignment | BagAssignment, gt: GroundTruth, priors: Priors, gt_index: int
) -> WeightMaps:
    box, label, pairs = gt.boxes[0, gt_index], gt.classes[0, gt_index], assignment.pairs
    score = predictions.logits[0, :, label].sigmoid()
    if predictions.quality is not None:
        score = score * predictions.quality[0].sigmoid()
    of_class = pairs.classes(gt) == label
    if assignment.counts_negative is not None:
        of_class &= assignment.counts_negative
    positive, negative = torch.zeros_like(score), assignment.background_factor * score**assignment.background_gamma
    of_object = pairs.gt_index == gt_index
    positive[pairs.prior_index[of_object]] = assignment.positive_weight[of_object]
    negative[pairs.prior_index[of_class]] = assignment.negative_weight[of_class]
    iou = elementwise_iou(predictions.boxes[0], box)
    return WeightMaps(*(_per_level(values, priors) for values in (score, iou, positive, negative)))


def _per_level(values: Tensor, priors: Priors) -> list[Tensor]:
    """(P,) to a map per level, on the CPU; of several anchors on a location the largest."""
    per_point = values.view(-1, priors.anchors_per_point).amax(1).cpu()
    sizes = priors.grid.sizes
    parts = per_point.split([height * width for height, width in sizes])
    return [part.view(size) for part, size in zip(parts, sizes, strict=True)]


def plot_weight_maps(maps: Mapping[str, WeightMaps], image: RGBImage, box: Tensor, strides: tuple[int, ...]) -> Figure:
    """One row per weighting: score, IoU, positive and negative weight around the object, on the level that matters most to the first.

    Args:
        maps: by the name of the weighting.
        image: (H, W, 3), the network's input.
        box: (4,) the object, xyxy in pixels.
        strides: of the levels.
    """
    level = next(iter(maps.values())).main_level
    stride, gray = strides[level], np.asarray(image, dtype=np.float64).mean(2)
    view = _around(box.tolist(), *gray.shape)
    figure = Figure(figsize=(13, 3.4 * len(maps)), layout="constrained")
    for row, (name, each) in zip(figure.subplots(len(maps), 4, squeeze=False), maps.items(), strict=True):
        columns = {"score": each.score, "IoU": each.iou, "positive weight": each.positive, "negative weight": each.negative}
        for axes, (title, levels) in zip(row, columns.items(), strict=True):
            x0, y0, x1, y1 = (int(side // stride) for side in view)
            largest = float(levels[level][y0 : y1 + 1, x0 : x1 + 1].max())
            _draw(axes, gray, levels[level], stride, box.tolist(), 1.0 if title in ("score", "IoU") else largest or 1.0)
            axes.set(xlim=view[0::2], ylim=view[3::-2], xticks=[], yticks=[])
            axes.set_title(f"{name}: {title}, at most {largest:.2g}", fontsize=10)
    figure.supxlabel(f"locations of stride {stride}; colors from 0 to 1 for score and IoU, else from 0 to the largest", fontsize=9)
    return figure


def _around(box: list[float], height: int, width: int) -> tuple[float, float, float, float]:
    """The part of an image that is shown of an object, xyxy."""
    x0, y0, x1, y1 = box
    margin_x, margin_y = MARGIN * (x1 - x0), MARGIN * (y1 - y0)
    return max(x0 - margin_x, 0.0), max(y0 - margin_y, 0.0), min(x1 + margin_x, width - 1.0), min(y1 + margin_y, height - 1.0)


def _draw(axes: Axes, gray: NDArray[np.float64], values: Tensor, stride: int, box: list[float], top: float) -> None:
    """A map over the image in gray. Where the map is 0 the image shows."""
    axes.imshow(gray, cmap="gray", vmin=0, vmax=255)
    extent = (0, values.shape[1] * stride, values.shape[0] * stride, 0)
    strength = (values / top).clamp(0, 1).numpy()
    axes.imshow(strength, cmap="turbo", vmin=0, vmax=1, extent=extent, alpha=0.8 * strength**0.5, interpolation="nearest")
    x0, y0, x1, y1 = box
    axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="white", linewidth=1.5))
