"""The meta-architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from detkit.assigners import Assigner
from detkit.checkpoint import read_published_layouts
from detkit.config import Conventions
from detkit.dense import DensePipeline, DensePostprocessor, PriorGenerator, TensorPath
from detkit.geometry import Priors
from detkit.host import send
from detkit.structures import Detections, GroundTruth, HardAssignment, Predictions

from .corners import CornerCriterion, snap_corners
from .criterion import LSCriterion, Stage
from .head import LSOutputs
from .landmarks import LandmarkSet
from .parts import lsnet_parts_from_config
from .tasks import Task

__all__ = ["LSNet"]


@META_ARCH_REGISTRY.register()
class LSNet(TensorPath, DenseDetector):
    """Location-sensitive network (Duan et al., Location-Sensitive Visual Recognition with Cross-IOU Loss, 2021).

    Every location predicts vectors to landmarks of an object, which make its box; the features at the landmarks give better vectors and
    the classes. What the landmarks are, extreme points, a contour, keypoints or several of these, is defined by the task.

    Args:
        backbone: a Detectron2 backbone with a feature pyramid.
        head: maps the pyramid to :class:`lsnet.head.LSOutputs`.
        head_in_features: names of the levels used, from fine to coarse.
        task: what is regressed.
        init_assigner: which location learns which object in the first stage.
        refine_assigner: the same in the second stage, for the classes too. It may look at the boxes of the first stage. None: there is no
            second stage.
        criterion: the losses.
        postprocessor: predictions to detections.
        corner_criterion: the losses of corner maps, for a head that makes them.
        prior_generator: where the head predicts: points, in the official code at the corners of the cells.
        ignore_padding: leave out locations beyond an image's own padded area when images of different size share a batch.
        min_area: detections whose box has no larger area, in square pixels of the original image, are left out.
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
        task: Task,
        init_assigner: Assigner,
        refine_assigner: Assigner | None,
        criterion: LSCriterion,
        postprocessor: DensePostprocessor,
        corner_criterion: CornerCriterion | None = None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        ignore_padding: bool = True,
        min_area: float = 0.0,
        conventions: Conventions | None = None,
    ) -> None:
        super().__init__(backbone, head, list(head_in_features), pixel_mean=tuple(pixel_mean), pixel_std=tuple(pixel_std))
        self.prior_generator = prior_generator
        self.task = task
        self.num_classes = criterion.num_classes
        self.init_assigner = init_assigner
        self.refine_assigner = refine_assigner
        self.criterion = criterion
        self.corner_criterion = corner_criterion
        self.postprocessor = postprocessor
        self.ignore_padding = ignore_padding
        self.min_area = min_area
        self.tta_fields = task.merge_rules()
        read_published_layouts(self, conventions)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return lsnet_parts_from_config(cfg)

    @property
    def assigner(self) -> Assigner:
        """The assigner of the last stage, which decides about the classes."""
        return self.refine_assigner or self.init_assigner

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses while training; else per image ``{"instances": ...}`` in pixels of the original image, with the fields of the task, see
        :mod:`lsnet.tasks`."""
        outputs = super().forward(batched_inputs)
        if self.training:
            return outputs
        sizes = [(item["image"].shape[-2], item["image"].shape[-1]) for item in batched_inputs]
        return [{"instances": self.task.finish(output["instances"], size)} for output, size in zip(outputs, sizes, strict=True)]

    def predict(self, images: ImageList) -> LSOutputs:
        """The raw outputs of backbone and head for preprocessed images."""
        return self.raw_outputs(images.tensor)

    def named_maps(self, outputs: LSOutputs) -> dict[str, Tensor]:
        maps = {"logits": outputs.logits}
        for stage, vectors in (("init", outputs.init), ("refine", outputs.refine)):
            maps |= {f"{stage}_{name}": values for name, values in vectors.items()}
        return {f"{kind}_{self.head_in_features[i]}": x for kind, values in maps.items() for i, x in enumerate(values)}

    def forward_inference(self, images: ImageList, features: list[Tensor], predictions: LSOutputs) -> list[Instances]:
        """Detections of every image, with ``pred_landmarks``, in pixels of the network's input."""
        return self.detect(predictions, images.image_sizes)

    def ground_truth(self, gt_instances: list[Instances]) -> GroundTruth:
        """Padded objects, one at least in every image, so that there is one to look up."""
        return GroundTruth.from_instances(gt_instances, self.device, min_objects=1)

    @property
    def pipeline(self) -> DensePipeline:
        """How priors, predictions and the labels of the last stage are made of this detector's parts."""
        return DensePipeline(self.prior_generator, self.assigner, self._decode, self.ignore_padding, self.backbone.size_divisibility)

    def losses(self, outputs: LSOutputs, gt: GroundTruth, image_sizes: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The losses of raw outputs, ``image_sizes`` (height, width) without padding."""
        predictions, priors = self.pipeline.decode(outputs)
        stages = self.stages(outputs, predictions, priors, gt, image_sizes)
        losses = self.criterion(predictions.logits, stages, gt, priors)
        if self.corner_criterion is not None and outputs.corners is not None:
            valid_sizes = self.pipeline.valid_sizes(priors, image_sizes)
            losses |= self.corner_criterion(outputs.corners, gt, priors.grid, stages[-1].assignment.ignore, valid_sizes)
        return losses

    def stages(
        self, outputs: LSOutputs, predictions: Predictions, priors: Priors, gt: GroundTruth, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Stage]:
        """What each stage predicts, and what its assigner makes of a batch."""
        stages = []
        for assigner, vectors in ((self.init_assigner, outputs.init), (self.refine_assigner, outputs.refine)):
            if assigner is not None:
                assignment = replace(self.pipeline, assigner=assigner).assign(priors, gt, predictions, image_sizes)
                if not isinstance(assignment, HardAssignment):
                    raise TypeError(f"LSNet learns from hard labels, but {type(assigner).__name__} gives weights.")
                flat = {name: flatten_levels(maps) for name, maps in vectors.items()}
                stages.append(Stage(flat, assignment, assigner.max_positives(gt.valid.shape[1], priors)))
        return stages

    def _decode(self, outputs: LSOutputs, priors: Priors) -> Predictions:
        """What an assigner may look at: logits (B, P, K) and the boxes of the first stage, which stand for anchors in the second."""
        logits = flatten_levels(outputs.logits).transpose(1, 2)
        landmarks = self.task.box_landmarks
        return Predictions(logits, landmarks.boxes(_landmarks(outputs.init[landmarks.name], landmarks, priors).detach()))

    def detect(self, outputs: LSOutputs, image_sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        """Detections of raw outputs in pixels of the network's input, with ``pred_landmarks`` and those of the first stage."""
        sizes = send(np.asarray(image_sizes, np.float32), self.device)
        return self.detections(outputs, sizes).to_instances(image_sizes)

    def detections(self, outputs: LSOutputs, image_sizes: Tensor) -> Detections:
        """:meth:`detect` in one shape; ``image_sizes`` (B, 2) height and width without padding."""
        priors = self.prior_generator(outputs.level_sizes)
        positions = {s.name: _landmarks(outputs.final[s.name], s, priors) for s in self.task.sets}
        boxes = self.task.box_landmarks.boxes(positions[self.task.box_landmarks.name])
        limits = image_sizes.flip(-1)[:, None]  # width, height
        if outputs.corners is not None:
            boxes = snap_corners(boxes.clamp(min=0).minimum(limits.repeat(1, 1, 2)), outputs.corners, priors.grid)
        own = [part.landmarks for part in self.task.parts]
        first = [_landmarks(outputs.init[s.name], s, priors) for s in own]
        found = self.postprocessor(
            Predictions(flatten_levels(outputs.logits).transpose(1, 2), boxes),
            priors_per_level=priors.per_level,
            image_sizes=image_sizes,
            fields={"pred_landmarks": _joined([positions[s.name] for s in own]), "first_landmarks": _joined(first)},
        )
        inside = found.fields["pred_landmarks"].clamp(min=0).minimum(limits[:, None])
        return replace(found, fields=found.fields | {"pred_landmarks": inside})


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, C, H, W) of all levels as one (B, C, P), in float32."""
    return torch.cat([x.flatten(2) for x in maps], dim=2).float()


def _joined(landmarks: Sequence[Tensor]) -> Tensor:
    """Landmarks (B, P, V, 2) of several sets, one behind the other."""
    return landmarks[0] if len(landmarks) == 1 else torch.cat(list(landmarks), dim=2)


def _landmarks(vectors: Sequence[Tensor], landmarks: LandmarkSet, priors: Priors) -> Tensor:
    """Positions (B, P, V, 2) in pixels of the landmarks to which vectors, maps of all levels in cells, lead."""
    flat = flatten_levels(vectors).unflatten(1, (-1, 4)).movedim(3, 1)  # (B, P, V + 1, 4)
    offsets = landmarks.offsets(flat)[..., :-1, :]
    return offsets * priors.strides[:, None, None] + priors.points[:, None]
