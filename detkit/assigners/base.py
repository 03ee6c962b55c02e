"""What goes into a label assigner and what comes out of it.

Shapes used in this package:
    B: images of the batch;  G: ground-truth boxes per image, padded to the largest number in the batch;
    P: priors (anchors or points) of the grid, in the order of :mod:`detkit.geometry.grid`, or the predictions of a set predictor;
    K: classes;  M: listed pairs per image.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from detkit.geometry import Priors
from detkit.structures import GroundTruth, HardAssignment, Predictions

from .soft import SoftAssignment

__all__ = ["AssignContext", "Assigner"]


@dataclass(frozen=True)
class AssignContext:
    """All that an assigner may look at.

    Attributes:
        gt: the objects.
        priors: where the head predicts; None for set predictors without a grid.
        predictions: current predictions; None unless the assigner's ``needs_predictions`` is true.
        valid_sizes: (B, L, 2) int64 (rows, columns) of the part of each level that belongs to an image's own padded area; cells beyond
            it take no part and come out as ignored. None: all cells of the batch take part.
        image_sizes: (B, 2) height and width of the images in pixels without padding, for costs relative to the image; None unless the
            assigner's ``needs_predictions`` is true.
        step: training iteration, for schedules; None outside a training.
    """

    gt: GroundTruth
    priors: Priors | None = None
    predictions: Predictions | None = None
    valid_sizes: Tensor | None = None
    image_sizes: Tensor | None = None
    step: int | None = None

    @property
    def grid_priors(self) -> Priors:
        """The priors, for an assigner that cannot do without.

        Raises:
            ValueError: the detector predicts on no grid.
        """
        if self.priors is None:
            raise ValueError("This assigner needs the priors of a dense detector; a set predictor has none.")
        return self.priors

    @property
    def given_predictions(self) -> Predictions:
        """The predictions, for an assigner that cannot do without.

        Raises:
            ValueError: none were given.
        """
        if self.predictions is None:
            raise ValueError("This assigner looks at predictions, but the context has none.")
        return self.predictions


class Assigner(nn.Module):
    """Decides which priors answer for which objects. Subclasses implement :meth:`forward` and register in ``ASSIGNER_REGISTRY``.

    A module, so that constants live in buffers and travel with the checkpoint where they matter. An assigner never sees the network
    and works without one. Unless ``differentiable``, it runs without gradient.
    """

    #: whether ``AssignContext.predictions`` must be filled
    needs_predictions: bool = False
    #: whether ``AssignContext.priors`` must be given: false for assigners that set predictors can use
    needs_priors: bool = True
    #: whether the priors must be anchors with an extent, not points
    needs_anchors: bool = False
    #: whether the result is a :class:`detkit.assigners.SoftAssignment`
    gives_weights: bool = False
    #: whether the result carries gradient to the predictions and to parameters of the assigner
    differentiable: bool = False

    def max_positives(self, num_gts: int, priors: Priors) -> int:
        """The most priors of an image that can get an object, for losses that make room for these alone."""
        return priors.num_priors

    def forward(self, context: AssignContext) -> HardAssignment | SoftAssignment:
        raise NotImplementedError
