"""A detector as a pure function of tensors: what is compiled and exported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkit.layers import ABSENT, best_indices, gather_rows
from detkit.structures import Detections

__all__ = ["DETECTION_NAMES", "DetectorProgram"]

#: the outputs of every program with post-processing; those of landmarks follow
DETECTION_NAMES = ("boxes", "scores", "classes", "counts")


class DetectorProgram(nn.Module):
    """From pixels to padded detections, with everything that Detectron2 does around the network inside: normalization and padding before,
    clipping to the image and leaving out empty boxes after.

    Args:
        model: a detector with ``detect_tensors``, ``raw_tensors``, ``backbone``, ``pixel_mean`` and ``pixel_std``. It is used as it is, in
            evaluation mode.
        raw: give the network's maps instead of detections.
    """

    def __init__(self, model: Any, *, raw: bool = False) -> None:
        super().__init__()
        self.model = model.eval()
        self.raw = raw
        #: names of the outputs, in their order, known after a call
        self.output_names: tuple[str, ...] = ()
        self._may_be_traced = False

    @contextlib.contextmanager
    def traced_for_one_size(self) -> Iterator[None]:
        """Within it ``torch.jit.trace`` is let through; who traces sees to it that no other size enters the result."""
        self._may_be_traced = True
        try:
            yield
        finally:
            self._may_be_traced = False

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        """The outputs named in ``output_names``.

        Args:
            images: (B, 3, H, W) pixels in [0, 255] in the channel order of ``INPUT.FORMAT``, uint8 or float, each image in the upper left
                corner. What lies beyond an image is not looked at.
            image_sizes: (B, 2) int64, height and width of every image without padding.

        Returns:
            boxes (B, D, 4) xyxy in pixels of ``images``, clipped to the image; scores (B, D); classes (B, D) int64; counts (B,) int64, how
            many rows are detections, best first; then landmarks (B, D, V, 2) x, y, where the detector has them, of several tasks those
            of each, as ``landmarks_<task>``. Rows from the count on hold zeros, and -1 as class. With ``raw``: the maps that
            ``raw_tensors`` of the detector names.

        Raises:
            RuntimeError: ``torch.jit.trace`` runs it. It would keep the numbers of this size.
        """
        if not self._may_be_traced and torch.jit.is_tracing():
            raise RuntimeError(
                "torch.jit.trace would keep the sizes of this image as constants. Use torch.export or torch.compile, or write a file of "
                "one size, which refuses others: tools/export.py --format torchscript --size HxW --batch N."
            )
        padded = self._preprocess(images, image_sizes)
        sizes = image_sizes.to(padded.dtype)
        if self.raw:
            outputs = self.model.raw_tensors(padded, sizes)
        else:
            found = _within_images(self.model.detect_tensors(padded, sizes), sizes)
            landmarks = self._landmarks(found)
            outputs = {"boxes": found.boxes, "scores": found.scores, "classes": found.classes, "counts": found.counts} | landmarks
        if not torch.compiler.is_compiling():
            self.output_names = tuple(outputs)
        return tuple(outputs.values())

    def _landmarks(self, found: Detections) -> dict[str, Tensor]:
        """The outputs of landmarks by their names."""
        if "pred_landmarks" not in found.fields:
            return {}
        of_tasks: dict[str, Tensor] = self.model.task.split(found.fields["pred_landmarks"])
        return {"landmarks" if len(of_tasks) == 1 else f"landmarks_{name}": points for name, points in of_tasks.items()}

    def _preprocess(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """Normalized images, zero beyond each image's own size, padded to what the backbone divides."""
        height, width = images.shape[-2:]
        rows = torch.arange(height, device=images.device)[:, None] < image_sizes[:, 0, None, None]
        columns = torch.arange(width, device=images.device) < image_sizes[:, 1, None, None]
        normalized = (images - self.model.pixel_mean) / self.model.pixel_std
        inside = torch.where((rows & columns)[:, None], normalized, 0.0)
        divisor = max(self.model.backbone.size_divisibility, 1)
        full = [(side + divisor - 1) // divisor * divisor for side in (height, width)]
        return F.pad(inside, (0, full[1] - width, 0, full[0] - height))


def _within_images(found: Detections, image_sizes: Tensor) -> Detections:
    """Boxes clipped to their image, and those without area left out, as Detectron2's ``detector_postprocess`` does."""
    limits = image_sizes.flip(-1).repeat(1, 2)[:, None]  # width, height, width, height
    boxes = found.boxes.clamp(min=0).minimum(limits)
    rows = torch.arange(boxes.shape[1], device=boxes.device)
    filled = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1]) & (rows < found.counts[:, None])
    order = best_indices(torch.where(filled, 1.0, ABSENT), boxes.shape[1])
    there = filled.gather(1, order)
    return replace(
        found,
        boxes=torch.where(there[..., None], gather_rows(boxes, order), 0.0),
        scores=torch.where(there, found.scores.gather(1, order), 0.0),
        classes=torch.where(there, found.classes.gather(1, order), -1),
        counts=there.sum(1),
        fields={
            name: torch.where(there.view(*there.shape, *[1] * (value.ndim - 2)), gather_rows(value, order), 0.0)
            for name, value in found.fields.items()
        },
    )
