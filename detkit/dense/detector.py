"""The thin base of dense detectors: preprocess, run the network, assign and compute losses, or post-process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import Backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector as Detectron2DenseDetector
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from detkit.assigners import AssignContext, Assigner
from detkit.checkpoint import read_published_layouts
from detkit.config import Conventions, method_node
from detkit.dense.auxiliary import AuxiliaryLoss
from detkit.dense.criteria import LabelCriterion, WeightedCriterion
from detkit.dense.parts import dense_parts_from_config
from detkit.dense.pipeline import DensePipeline, decode_flat, decode_outputs
from detkit.dense.postprocess import DensePostprocessor
from detkit.dense.priors import PriorGenerator
from detkit.dense.tensor_path import TensorPath
from detkit.geometry import BoxCoder, boxes_to_ltrb, centerness_of
from detkit.host import send
from detkit.layers import gather_rows
from detkit.structures import DenseOutputs, Detections, GroundTruth

__all__ = ["DenseDetector"]


class DenseDetector(TensorPath, Detectron2DenseDetector):
    """Predicts classes and boxes at every location of a feature pyramid. FCOS, ATSS and DW are this with different parts.

    Args:
        backbone: a Detectron2 backbone with a feature pyramid.
        head: maps the pyramid to :class:`detkit.structures.DenseOutputs`.
        head_in_features: names of the levels used, from fine to coarse.
        prior_generator: where the head predicts. Where its ``plus_one`` is 1, inputs and outputs keep Detectron2's convention all the
            same: they are translated at the border of the model.
        box_coder: what the raw regression means.
        assigner: which prior learns which object.
        criterion: the losses.
        postprocessor: predictions to detections.
        auxiliary: a second assignment with its losses, in training alone; None: there is none.
        quality_from_boxes: detections are scored with the center-ness of the predicted boxes instead of the quality branch (FCOS, table 4).
        ignore_padding: leave out locations beyond an image's own padded area when images of different size share a batch, as
            mmdetection's anchor heads do; else they are background, as in the official codes.
        pixel_mean, pixel_std: per channel, for images in the order of ``INPUT.FORMAT``.
        conventions: of the config, which published weights have to share; None: they are not compared.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: Sequence[str],
        prior_generator: PriorGenerator,
        box_coder: BoxCoder,
        assigner: Assigner,
        criterion: LabelCriterion | WeightedCriterion,
        postprocessor: DensePostprocessor,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        auxiliary: AuxiliaryLoss | None = None,
        quality_from_boxes: bool = False,
        ignore_padding: bool = False,
        conventions: Conventions | None = None,
    ) -> None:
        super().__init__(backbone, head, list(head_in_features), pixel_mean=tuple(pixel_mean), pixel_std=tuple(pixel_std))
        self.num_classes = criterion.num_classes
        self.quality_from_boxes = quality_from_boxes
        self.prior_generator = prior_generator
        self.box_coder = box_coder
        self.assigner = assigner
        self.criterion = criterion
        self.auxiliary = auxiliary
        self.postprocessor = postprocessor
        self.ignore_padding = ignore_padding
        read_published_layouts(self, conventions)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """From the section that is named as the class is, ``cfg.MODEL.FCOS`` for instance."""
        return dense_parts_from_config(cfg, method_node(cfg, cls.__name__))

    @property
    def pipeline(self) -> DensePipeline:
        """How priors, predictions and labels are made of this detector's parts."""
        return self._pipeline_of(self.assigner)

    def _pipeline_of(self, assigner: Assigner) -> DensePipeline:
        decoder = partial(decode_outputs, box_coder=self.box_coder, num_classes=self.num_classes)
        return DensePipeline(self.prior_generator, assigner, decoder, self.ignore_padding, self.backbone.size_divisibility)

    def predict(self, images: ImageList) -> DenseOutputs:
        """Raw outputs of preprocessed images."""
        return self.raw_outputs(images.tensor)

    def forward_inference(self, images: ImageList, features: list[Tensor], predictions: DenseOutputs) -> list[Instances]:
        """Detections of every image in pixels of the network's input."""
        found = self._at_border(self.detections(predictions, self._sizes(images.image_sizes)))
        return found.to_instances(images.image_sizes)

    def detect_tensors(self, images: Tensor, image_sizes: Tensor) -> Detections:
        return self._at_border(super().detect_tensors(images, image_sizes))

    def named_maps(self, outputs: DenseOutputs) -> dict[str, Tensor]:
        maps = {"logits": outputs.logits, "boxes": outputs.boxes, "quality": outputs.quality}
        levels = self.head_in_features
        return {f"{kind}_{levels[i]}": x for kind, values in maps.items() for i, x in enumerate(values or ())}

    def ground_truth(self, gt_instances: list[Instances]) -> GroundTruth:
        """Padded objects on the model's device, in its own box convention."""
        return GroundTruth.from_instances(gt_instances, self.device, plus_one=self.prior_generator.plus_one, min_objects=self.min_objects)

    def losses(self, outputs: DenseOutputs, gt: GroundTruth, image_sizes: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The losses of raw outputs, ``gt`` in the model's own box convention, ``image_sizes`` (height, width) without padding."""
        assigners = [self.assigner, *([] if self.auxiliary is None else [self.auxiliary.assigner])]
        priors = self.prior_generator(outputs.level_sizes).made()
        plans = [self._pipeline_of(assigner).plan(priors, gt, image_sizes) for assigner in assigners]
        flat = outputs.flatten(self.num_classes)
        compiles = all(assigner.compiles for assigner in assigners)
        return self.run_part("flat_losses", flat, *plans) if compiles else self.flat_losses(flat, *plans)

    def flat_losses(
        self, flat: tuple[Tensor, Tensor, Tensor | None], plan: AssignContext, auxiliary_plan: AssignContext | None = None
    ) -> dict[str, Tensor]:
        """:meth:`losses` of flattened outputs (:meth:`detkit.structures.DenseOutputs.flatten`) and what the host has made of the batch for
        each assigner (:meth:`detkit.dense.DensePipeline.plan`)."""
        priors = plan.grid_priors
        predictions = decode_flat(*flat, priors, self.box_coder)
        losses = self.criterion(predictions, self.pipeline.assign_planned(plan, predictions), plan.gt, priors)
        if self.auxiliary is not None and auxiliary_plan is not None:
            seen = self.auxiliary.seen(predictions)
            assignment = self._pipeline_of(self.auxiliary.assigner).assign_planned(auxiliary_plan, seen)
            losses |= self.auxiliary(seen, assignment, plan.gt, priors)
        return losses

    def detect(self, outputs: DenseOutputs, image_sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        """Detections of raw outputs in the model's own box convention."""
        return self.detections(outputs, self._sizes(image_sizes)).to_instances(image_sizes)

    def detections(self, outputs: DenseOutputs, image_sizes: Tensor) -> Detections:
        """Detections of raw outputs in the model's own box convention, in one shape; ``image_sizes`` (B, 2) height and width."""
        priors, raw_boxes = self.prior_generator(outputs.level_sizes), outputs.flat_boxes()

        def boxes_of(index: Tensor) -> Tensor:
            return self.box_coder.decode(gather_rows(raw_boxes, index), priors.at(index))

        quality: Iterable[Tensor] | None = outputs.quality_of_levels()
        if self.quality_from_boxes:
            boxes = self.box_coder.decode(raw_boxes, priors)
            quality = centerness_of(boxes_to_ltrb(boxes, priors.points)).logit().split(list(priors.per_level), dim=1)
        logits = outputs.logits_of_levels(self.num_classes)
        return self.postprocessor.from_levels(logits, quality, boxes_of=boxes_of, image_sizes=image_sizes)

    def _sizes(self, image_sizes: Sequence[tuple[int, int]]) -> Tensor:
        return send(np.asarray(image_sizes, np.float32), self.device)

    def _at_border(self, found: Detections) -> Detections:
        """Detections in Detectron2's box convention."""
        plus_one = self.prior_generator.plus_one
        if not plus_one:
            return found
        return replace(found, boxes=torch.cat([found.boxes[..., :2], found.boxes[..., 2:] + plus_one], dim=-1))
