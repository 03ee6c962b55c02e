"""From raw outputs to labels: the one way that every dense detector, FCOS as proposal network, the stages of LSNet, the analysis and the
pictures of assignments go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from detkit.assigners import AssignContext, Assigner, Assignment
from detkit.dense.priors import PriorGenerator
from detkit.geometry import BoxCoder, Priors
from detkit.host import send
from detkit.structures import DenseOutputs, GroundTruth, Predictions

__all__ = ["DensePipeline", "decode_flat", "decode_outputs"]


def decode_outputs(outputs: DenseOutputs, priors: Priors, *, box_coder: BoxCoder, num_classes: int) -> Predictions:
    """Raw maps to flat predictions with boxes in pixels, in float32."""
    return decode_flat(*outputs.flatten(num_classes), priors, box_coder)


def decode_flat(logits: Tensor, raw_boxes: Tensor, quality: Tensor | None, priors: Priors, box_coder: BoxCoder) -> Predictions:
    """Flattened maps (B, P, ...) to predictions with boxes in pixels."""
    return Predictions(logits, box_coder.decode(raw_boxes, priors), quality, raw_boxes)


@dataclass(frozen=True)
class DensePipeline:
    """Makes priors, decodes what a head gives, and assigns.

    Attributes:
        prior_generator: makes the priors.
        assigner: which prior learns which object.
        decoder: what the raw outputs mean: ``(outputs, priors) -> Predictions``, such as :func:`decode_outputs` with its keyword arguments.
            None where nothing is decoded, for assigners that read no predictions.
        ignore_padding: leave out locations beyond an image's own padded area when images of different size share a batch.
        size_divisibility: images are padded to multiples of so many pixels.
    """

    prior_generator: PriorGenerator
    assigner: Assigner
    decoder: Callable[[Any, Priors], Predictions] | None = None
    ignore_padding: bool = False
    size_divisibility: int = 0

    def decode(self, outputs: Any) -> tuple[Predictions, Priors]:
        """Predictions of raw outputs (:class:`detkit.structures.DenseOutputs`, or others with ``level_sizes``), and their priors."""
        assert self.decoder is not None
        priors = self.prior_generator(outputs.level_sizes)
        return self.decoder(outputs, priors), priors

    def assign(
        self, priors: Priors, gt: GroundTruth, predictions: Predictions | None = None, image_sizes: Sequence[tuple[int, int]] = ()
    ) -> Assignment:
        """The assignment of a batch.

        Args:
            priors: of the pyramid.
            gt: the objects, in the box convention of the priors.
            predictions: of the priors, for assigners that read them.
            image_sizes: (height, width) of every image in pixels without padding; needed with ``ignore_padding`` and with predictions.
        """
        return self.assign_planned(self.plan(priors, gt, image_sizes), predictions)

    def plan(self, priors: Priors, gt: GroundTruth, image_sizes: Sequence[tuple[int, int]] = ()) -> AssignContext:
        """What of the input of the assigner does not depend on the network, made of what the host knows.
        Arguments as in :meth:`assign`."""
        sees_predictions = self.assigner.needs_predictions
        context = AssignContext(
            gt=gt,
            priors=priors,
            valid_sizes=self.valid_sizes(priors, image_sizes),
            image_sizes=send(np.asarray(image_sizes, np.float32), gt.boxes.device) if sees_predictions else None,
        )
        return replace(context, ahead=self.assigner.ahead(context))

    def assign_planned(self, plan: AssignContext, predictions: Predictions | None = None) -> Assignment:
        """The assignment of a batch, of which :meth:`plan` has made all that the host has to know."""
        return self.assigner(replace(plan, predictions=predictions if self.assigner.needs_predictions else None))

    def valid_sizes(self, priors: Priors, image_sizes: Sequence[tuple[int, int]]) -> Tensor | None:
        """(B, L, 2) rows and columns of every level that belong to each image; None where all cells of the batch take part."""
        return priors.grid.cells_within(image_sizes, self.size_divisibility) if self.ignore_padding else None
