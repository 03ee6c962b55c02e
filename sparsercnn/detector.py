"""The meta-architecture: learned proposals, an iterative head, a set prediction loss, no NMS."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.structures import ImageList
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from detkit.assigners import AssignContext, Assigner, NonFiniteCostError
from detkit.checkpoint import read_published_layouts
from detkit.config import Conventions
from detkit.host import send
from detkit.layers import InParts, refuse_tracing
from detkit.structures import Detections, GroundTruth, HardAssignment, Predictions, output_sizes

from .criterion import SetCriterion
from .denoising import Denoising
from .head import IterativeHead, StageOutputs
from .matching import objects_of_stages, original_objects
from .parts import parts_from_config
from .postprocess import SetPostprocessor
from .proposals import LearnedProposals

__all__ = ["SparseRCNN"]

logger = logging.getLogger(__name__)


@META_ARCH_REGISTRY.register()
class SparseRCNN(InParts, nn.Module):
    """End-to-end detection with learnable proposals (Sun et al., CVPR 2021).

    Args:
        backbone: a Detectron2 backbone with a feature pyramid.
        in_features: names of the levels used, from fine to coarse.
        proposals: where the first stage looks.
        head: refines them.
        assigner: matches the predictions of every stage with the objects; one that needs no priors.
        criterion: the losses.
        postprocessor: predictions to detections.
        pixel_mean, pixel_std: per channel, for images in the order of ``INPUT.FORMAT``.
        test_stage: index of the stage whose predictions are the detections.
        matches_per_object: how many proposals are matched with each object in the first stages; one in all further stages.
        denoising: makes extra proposals for training; None: there are none, as published.
        conventions: of the config, which published weights have to share; None: they are not compared.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        proposals: LearnedProposals,
        head: IterativeHead,
        assigner: Assigner,
        criterion: SetCriterion,
        postprocessor: SetPostprocessor,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        test_stage: int = -1,
        matches_per_object: Sequence[int] = (),
        denoising: Denoising | None = None,
        conventions: Conventions | None = None,
    ) -> None:
        super().__init__()
        if not -len(head.stages) <= test_stage < len(head.stages):
            raise ValueError(f"test_stage is {test_stage}, but there are {len(head.stages)} stages.")
        if len(matches_per_object) >= len(head.stages) or any(number < 1 for number in matches_per_object):
            raise ValueError(
                f"matches_per_object is {list(matches_per_object)}. It has to be numbers from 1 on, fewer than {len(head.stages)} stages."
            )
        self.backbone = backbone
        self.in_features = tuple(in_features)
        self.proposals = proposals
        self.head = head
        self.assigner = assigner
        self.criterion = criterion
        self.postprocessor = postprocessor
        self.test_stage = test_stage
        self.matches_per_object = (*matches_per_object, *[1] * (len(head.stages) - len(matches_per_object)))
        self.denoising = denoising
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        read_published_layouts(self, conventions)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return parts_from_config(cfg)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses while training, else per image ``{"instances": ...}`` in pixels of the output size (``height``, ``width``).

        Args:
            batched_inputs: as Detectron2's mapper hands them over.

        Raises:
            NonFiniteCostError: while training in one process, the network predicts NaN or infinite values; names iteration and images.
        """
        refuse_tracing(type(self).__name__)
        if self.training:  # the objects are sent before the network runs, so that nothing waits for it
            objects = [item["instances"] for item in batched_inputs]
            gt = GroundTruth.from_instances(objects, self.device, min_objects=max(self.min_objects, 1 if self.denoising else 0))
            images = self._tensors(self.preprocess_image(batched_inputs))
            if self.denoising is None:
                return self.losses(self.run_part("raw_outputs", *images), gt, batched_inputs)
            outputs, denoised = self.run_part("outputs_with_denoised", *images, gt)
            return self.losses(outputs, gt, batched_inputs) | self.run_part("denoising_losses", denoised, gt)
        images = self.preprocess_image(batched_inputs)
        sizes = output_sizes(batched_inputs, images.image_sizes)
        found = self.run_part("detect_tensors", *self._tensors(images)).resized(images.image_sizes, sizes)
        return [{"instances": each} for each in found.to_instances(sizes)]

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalizes the images and pads them to one size."""
        images = [(send(item["image"], self.device) - self.pixel_mean) / self.pixel_std for item in batched_inputs]
        return ImageList.from_tensors(images, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints)

    def predict(self, images: ImageList) -> StageOutputs:
        """What every stage predicts."""
        return self.raw_outputs(*self._tensors(images))

    def _tensors(self, images: ImageList) -> tuple[Tensor, Tensor]:
        return images.tensor, send(np.asarray(images.image_sizes, np.float32), self.device)

    def raw_outputs(self, images: Tensor, image_sizes: Tensor) -> StageOutputs:
        """What every stage predicts for normalized, padded images (B, 3, H, W) of (height, width) ``image_sizes`` (B, 2), float32."""
        return self.head(self._pyramid(images), *self.proposals(image_sizes), image_sizes)

    def _pyramid(self, images: Tensor) -> list[Tensor]:
        pyramid = self.backbone(images)
        return [pyramid[name] for name in self.in_features]

    def outputs_with_denoised(self, images: Tensor, image_sizes: Tensor, gt: GroundTruth) -> tuple[StageOutputs, StageOutputs]:
        """:meth:`raw_outputs`, and the same for the denoising queries, with B * copies in place of B and G in place of N."""
        assert self.denoising is not None
        pyramid, objects = self._pyramid(images), self.denoising.objects(gt)
        queries = self.denoising.boxes(objects), self.denoising.features(self.proposals.features, objects)
        outputs = self.head(pyramid, *self.proposals(image_sizes), image_sizes)
        sizes = image_sizes.repeat_interleave(self.denoising.copies, 0)
        return outputs, self.head(pyramid, *queries, sizes, self.denoising.seen(objects))

    def denoising_losses(self, denoised: StageOutputs, gt: GroundTruth) -> dict[str, Tensor]:
        """``loss_l1_denoising`` and ``loss_giou_denoising``, summed over the stages."""
        assert self.denoising is not None
        objects = self.denoising.objects(gt)
        terms = self.criterion.of_boxes(denoised, self.denoising.assignments(objects, len(denoised.boxes)), objects)
        return {f"loss_{name}_denoising": self.denoising.weight * values.sum() for name, values in terms.items()}

    def detections(self, outputs: StageOutputs) -> Detections:
        """Detections of raw outputs in pixels of the network's input, not clipped."""
        return self.postprocessor(outputs.logits[self.test_stage], outputs.boxes[self.test_stage])

    def detect_tensors(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """Detections of images as in :meth:`raw_outputs`."""
        return self.detections(self.raw_outputs(images, image_sizes))

    def raw_tensors(self, images: Tensor, image_sizes: Tensor) -> dict[str, Tensor]:
        """Logits (B, N, K) and boxes (B, N, 4), xyxy in pixels, of the stage that detects."""
        outputs = self.raw_outputs(images, image_sizes)
        return {"logits": outputs.logits[self.test_stage], "boxes": outputs.boxes[self.test_stage]}

    def losses(self, outputs: StageOutputs, gt: GroundTruth, batched_inputs: Sequence[dict[str, Any]] = ()) -> dict[str, Tensor]:
        """The losses of all stages; ``batched_inputs`` give the images their names in an error.

        Of several workers none may leave alone, for the others would wait for its gradients: there costs that are not finite become an
        entry in the log and losses of NaN, which end the training of all workers.
        """
        try:
            return self.run_part("matched_losses", outputs, gt)
        except NonFiniteCostError as error:
            named = NonFiniteCostError(error.problems, _where(error.problems, len(gt.valid), batched_inputs))
            if comm.get_world_size() == 1:
                raise named from None
            logger.error("Worker %d: %s", comm.get_rank(), named)
            unmatched = torch.full(outputs.logits.shape[:3], -1, device=outputs.logits.device)
            return {name: loss * float("nan") for name, loss in self.criterion(outputs, unmatched, gt).items()}

    def matched_losses(self, outputs: StageOutputs, gt: GroundTruth) -> dict[str, Tensor]:
        """:meth:`losses`, but for what is done about costs that are not finite."""
        return self.criterion(outputs, self.assign(outputs, gt), gt)

    @torch.no_grad()
    def assign(self, outputs: StageOutputs, gt: GroundTruth) -> Tensor:
        """The object of each proposal at each stage (S, B, N), -1 for none: all stages are matched together, as more images."""
        stages, batch = outputs.logits.shape[:2]
        context = AssignContext(
            gt=objects_of_stages(gt, self.matches_per_object, outputs.boxes.shape[2]),
            predictions=Predictions(outputs.logits.flatten(0, 1), outputs.boxes.flatten(0, 1)),
            image_sizes=outputs.image_sizes.repeat(stages, 1),
        )
        assignment = self.assigner(context)
        assert isinstance(assignment, HardAssignment)
        return original_objects(assignment.gt_index, gt.valid.shape[1]).unflatten(0, (stages, batch))


def _where(problems: Sequence[int], batch: int, batched_inputs: Sequence[dict[str, Any]]) -> str:
    """The iteration, the images and the stages of the problems, which are numbered stage by stage."""
    stages_of: dict[int, list[int]] = {}
    for problem in problems:
        stages_of.setdefault(problem % batch, []).append(problem // batch)
    names = []
    for image, stages in stages_of.items():
        item = batched_inputs[image] if image < len(batched_inputs) else {}
        names.append(
            f"{item.get('image_id', '?')} ({item.get('file_name', 'no file name')}; {', '.join(f'stage{stage}' for stage in stages)})"
        )
    iteration = f"at iteration {get_event_storage().iter} " if has_event_storage() else ""
    return f"{iteration}for the images {', '.join(names)}"
