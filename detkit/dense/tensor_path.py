"""What eager inference, compilation and export share: from padded images to padded detections, in tensors alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor

from detkit.host import send
from detkit.layers import InParts, refuse_tracing
from detkit.structures import Detections, GroundTruth, output_sizes

__all__ = ["TensorPath"]


class TensorPath(InParts):
    """Mixed into detectors with ``backbone``, ``head`` and ``head_in_features`` that make detections of raw outputs."""

    backbone: Any
    head: Any
    head_in_features: Sequence[str]
    #: detections whose box has no larger area, in square pixels of the output, are left out
    min_area: float = -1.0
    training: bool
    device: torch.device
    preprocess_image: Any

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses while training, else per image ``{"instances": ...}`` in pixels of the output size (``height``, ``width``).

        Args:
            batched_inputs: as Detectron2's mapper hands them over.

        Raises:
            RuntimeError: it is being traced.
        """
        refuse_tracing(type(self).__name__)
        if self.training:
            return self.training_losses(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        found = self.run_part("detect_tensors", images.tensor, send(np.asarray(images.image_sizes, np.float32), self.device))
        sizes = output_sizes(batched_inputs, images.image_sizes)
        instances = found.resized(images.image_sizes, sizes, min_area=self.min_area).to_instances(sizes)
        return [{"instances": each} for each in instances]

    def training_losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The losses of a batch. The objects are sent before the network runs, so that nothing waits for it.

        Raises:
            ValueError: images without ``"instances"``.
        """
        if not all("instances" in item for item in batched_inputs):
            raise ValueError("Training needs the objects of the images, but some images have no 'instances'.")
        gt = self.ground_truth([item["instances"] for item in batched_inputs])
        images = self.preprocess_image(batched_inputs)
        return self.losses(self.run_part("raw_outputs", images.tensor), gt, images.image_sizes)

    def _move_to_current_device(self, x: Tensor) -> Tensor:
        """Detectron2's hook for images on their way to the device."""
        return send(x, self.device)

    def ground_truth(self, gt_instances: list[Instances]) -> GroundTruth:
        """Padded objects on the model's device, in its own box convention."""
        raise NotImplementedError

    def losses(self, outputs: Any, gt: GroundTruth, image_sizes: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The losses of raw outputs; ``image_sizes`` (height, width) without padding."""
        raise NotImplementedError

    def detections(self, outputs: Any, image_sizes: Tensor) -> Detections:
        """Detections of raw outputs; ``image_sizes`` (B, 2) height and width without padding."""
        raise NotImplementedError

    def named_maps(self, outputs: Any) -> dict[str, Tensor]:
        """The raw outputs by name, those of a level with the level's name at the end."""
        raise NotImplementedError

    def raw_outputs(self, images: Tensor) -> Any:
        """Raw outputs of normalized, padded images (B, 3, H, W)."""
        features = self.backbone(images)
        return self.head([features[name] for name in self.head_in_features])

    def detect_tensors(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """Detections of normalized, padded images, in pixels of the images, not clipped.

        Args:
            images: (B, 3, H, W), H and W multiples of the backbone's ``size_divisibility``.
            image_sizes: (B, 2) float32, height and width of every image without padding.
        """
        return self.detections(self.raw_outputs(images), image_sizes)

    def raw_tensors(self, images: Tensor, image_sizes: Tensor) -> dict[str, Tensor]:
        """The maps of the network by name, of images as in :meth:`detect_tensors`."""
        return self.named_maps(self.raw_outputs(images))
