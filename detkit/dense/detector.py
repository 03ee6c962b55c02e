"""The thin base of dense detectors: preprocess, run the network, assign and compute losses, or post-process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from detectron2.modeling import Backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector as Detectron2DenseDetector
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from detkit.assigners import AssignContext, Assigner, SoftAssignment
from detkit.checkpoint import read_published_layouts
from detkit.dense.criteria import DenseCriterion, WeightedCriterion
from detkit.dense.postprocess import DensePostprocessor
from detkit.geometry import BoxCoder, Grid, Priors, boxes_to_ltrb, centerness_of
from detkit.structures import DenseOutputs, GroundTruth, HardAssignment, Predictions

__all__ = ["DenseDetector"]


class DenseDetector(Detectron2DenseDetector):
    """Predicts classes and boxes at every location of a feature pyramid. FCOS and ATSS are this with different parts.

    Args:
        backbone: a Detectron2 backbone with a feature pyramid.
        head: maps the pyramid to :class:`detkit.structures.DenseOutputs`.
        head_in_features: names of the levels used, from fine to coarse.
        cell_anchors: per level (A, 4) anchors around a location, see :func:`detkit.geometry.square_anchors`.
        grid_offset: where a location lies in its cell, see :class:`detkit.geometry.Grid`.
        plus_one: 1 for weights trained with inclusive corners, see :class:`detkit.geometry.Priors`. Inputs and outputs keep
            Detectron2's convention all the same: they are translated at the border of the model.
        box_coder: what the raw regression means.
        assigner: which prior learns which object.
        criterion: the losses.
        postprocessor: predictions to detections.
        quality_from_boxes: detections are scored with the center-ness of the predicted boxes instead of the quality branch (FCOS, table 4).
        ignore_padding: leave out locations beyond an image's own padded area when images of different size share a batch, as
            mmdetection's anchor heads do; else they are background, as in the official codes.
        pixel_mean, pixel_std: per channel, for images in the order of ``INPUT.FORMAT``.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: Sequence[str],
        cell_anchors: Sequence[Tensor],
        box_coder: BoxCoder,
        assigner: Assigner,
        criterion: DenseCriterion | WeightedCriterion,
        postprocessor: DensePostprocessor,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        grid_offset: float = 0.5,
        plus_one: float = 0.0,
        quality_from_boxes: bool = False,
        ignore_padding: bool = False,
    ) -> None:
        super().__init__(backbone, head, list(head_in_features), pixel_mean=tuple(pixel_mean), pixel_std=tuple(pixel_std))
        shapes = backbone.output_shape()
        self.strides = tuple(shapes[name].stride for name in head_in_features)
        self.num_classes = criterion.num_classes
        for level, anchors in enumerate(cell_anchors):
            self.register_buffer(f"_cell_anchors{level}", anchors, persistent=False)  # beside the network, not copied at every step
        self.grid_offset = grid_offset
        self.plus_one = plus_one
        self.quality_from_boxes = quality_from_boxes
        self.ignore_padding = ignore_padding
        self.box_coder = box_coder
        self.assigner = assigner
        self.criterion = criterion
        self.postprocessor = postprocessor
        read_published_layouts(self)

    def forward_training(
        self, images: ImageList, features: list[Tensor], predictions: DenseOutputs, gt_instances: list[Instances]
    ) -> dict[str, Tensor]:
        """The losses of a batch."""
        return self.losses(predictions, self.ground_truth(gt_instances), images.image_sizes)

    def forward_inference(self, images: ImageList, features: list[Tensor], predictions: DenseOutputs) -> list[Instances]:
        """Detections of every image in pixels of the network's input."""
        results = self.detect(predictions, images.image_sizes)
        for result in results:
            result.pred_boxes.tensor[:, 2:] += self.plus_one
        return results

    def ground_truth(self, gt_instances: list[Instances]) -> GroundTruth:
        """Padded objects in the model's own box convention."""
        gt = GroundTruth.from_instances(gt_instances)
        if not self.plus_one:
            return gt
        shift = gt.boxes.new_tensor([0.0, 0.0, self.plus_one, self.plus_one])
        return GroundTruth(gt.boxes - shift * gt.valid[..., None], gt.classes, gt.valid)

    def losses(self, outputs: DenseOutputs, gt: GroundTruth, image_sizes: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The losses of raw outputs, ``gt`` in the model's own box convention, ``image_sizes`` (height, width) without padding."""
        priors = self.priors_of(outputs.level_sizes, outputs.logits[0].device)
        predictions = self.decode(outputs, priors)
        assignment = self.assign(priors, gt, predictions, image_sizes)
        return self.criterion(predictions, assignment, gt, priors)

    def assign(
        self, priors: Priors, gt: GroundTruth, predictions: Predictions | None, image_sizes: Sequence[tuple[int, int]]
    ) -> HardAssignment | SoftAssignment:
        """What the assigner makes of a batch."""
        context = AssignContext(
            gt=gt,
            priors=priors,
            predictions=predictions if self.assigner.needs_predictions else None,
            valid_sizes=priors.grid.cells_within(image_sizes, self.backbone.size_divisibility) if self.ignore_padding else None,
            image_sizes=gt.boxes.new_tensor(image_sizes) if self.assigner.needs_predictions else None,
            step=get_event_storage().iter if has_event_storage() else None,
        )
        with torch.set_grad_enabled(self.assigner.differentiable and torch.is_grad_enabled()):
            return self.assigner(context)

    def detect(self, outputs: DenseOutputs, image_sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        """Detections of raw outputs in the model's own box convention."""
        priors = self.priors_of(outputs.level_sizes, outputs.logits[0].device)
        per_level = [h * w * priors.anchors_per_point for h, w in outputs.level_sizes]
        predictions = self.decode(outputs, priors)
        if self.quality_from_boxes:
            centerness = centerness_of(boxes_to_ltrb(predictions.boxes, priors.points))
            predictions = replace(predictions, quality=centerness.logit())
        return self.postprocessor(predictions, priors_per_level=per_level, image_sizes=image_sizes)

    def decode(self, outputs: DenseOutputs, priors: Priors) -> Predictions:
        """Raw maps to flat predictions with boxes in pixels, in float32."""
        logits, raw_boxes, quality = outputs.flatten(self.num_classes)
        return Predictions(logits, self.box_coder.decode(raw_boxes, priors), quality, raw_boxes)

    @property
    def cell_anchors(self) -> tuple[Tensor, ...]:
        """Per level (A, 4) anchors around a location, on the model's device."""
        return tuple(self.get_buffer(f"_cell_anchors{level}") for level in range(len(self.strides)))

    def priors_of(self, level_sizes: Sequence[tuple[int, int]], device: torch.device) -> Priors:
        """The priors of a pyramid of these (height, width)."""
        grid = Grid(tuple(level_sizes), self.strides, self.grid_offset, device)
        return Priors(grid, self.cell_anchors, self.plus_one)
