"""What goes into a label assigner, and the protocol of all assigners.

Shapes as in :mod:`detkit.structures`; M counts listed pairs.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from detkit.config import Section
from detkit.config.assigners import ASSIGNER_LIMITS
from detkit.geometry import Priors
from detkit.structures import GroundTruth, HardAssignment, Predictions

from .soft import Assignment, Pairs

__all__ = ["AssignContext", "Assigner"]


@dataclass(frozen=True)
class AssignContext:
    """The input of an assigner.

    Attributes:
        gt: the objects.
        priors: where the head predicts; None for set predictors without a grid.
        predictions: current predictions; None unless the assigner's ``needs_predictions`` is true.
        valid_sizes: (B, L, 2) int64 (rows, columns) of the part of each level that belongs to an image's own padded area; cells beyond
            it take no part and come out as ignored. None: all cells of the batch take part.
        image_sizes: (B, 2) height and width of the images in pixels without padding, for costs relative to the image; None unless the
            assigner's ``needs_predictions`` is true.
        ahead: what the assigner's ``ahead`` gives, where that was asked for before.
    """

    gt: GroundTruth
    priors: Priors | None = None
    predictions: Predictions | None = None
    valid_sizes: Tensor | None = None
    image_sizes: Tensor | None = None
    ahead: Pairs | HardAssignment | tuple[int, int] | None = None

    @property
    def grid_priors(self) -> Priors:
        """The priors, for an assigner that requires them.

        Raises:
            ValueError: the detector predicts on no grid.
        """
        if self.priors is None:
            raise ValueError("This assigner needs the priors of a dense detector; a set predictor has none.")
        return self.priors

    @property
    def given_predictions(self) -> Predictions:
        """The predictions, for an assigner that requires them.

        Raises:
            ValueError: none were given.
        """
        if self.predictions is None:
            raise ValueError("This assigner reads predictions, but the context has none.")
        return self.predictions


class Assigner(nn.Module):
    """Decides which priors are responsible for which objects. Subclasses implement :meth:`forward` and register in
    ``ASSIGNER_REGISTRY``.

    A module, so that constants live in buffers and travel with the checkpoint where they matter. An assigner does not depend
    on the network. Hard labels are made without gradient; an assigner that gives weights looks predictions up once, with gradient,
    and detaches what its weights take as constant.
    """

    #: section below ``MODEL.ASSIGNERS`` whose keys are the constructor's arguments in capitals; None: there are none
    config_section: ClassVar[str | None] = None
    #: whether ``AssignContext.predictions`` must be filled
    needs_predictions: ClassVar[bool] = False
    #: whether ``AssignContext.priors`` must be given: false for assigners that set predictors can use
    needs_priors: ClassVar[bool] = True
    #: whether the priors must be anchors with an extent, not points
    needs_anchors: ClassVar[bool] = False
    #: whether the result is a :class:`detkit.assigners.SoftAssignment` or a :class:`detkit.assigners.BagAssignment`
    gives_weights: ClassVar[bool] = False
    #: whether boxes have a loss of their own; False where one likelihood holds class and box
    has_box_term: bool = True
    #: whether ``torch.compile`` can follow: beyond ``ahead``, no size depends on values, not even on those that the host knows
    compiles: ClassVar[bool] = False

    @classmethod
    def from_config(cls, cfg: CfgNode, **given: Any) -> dict[str, Any]:
        """The constructor's arguments: the keys of the assigner's section and, in place of them, what follows from the detector.

        Args:
            cfg: the whole config.
            given: of the detector, see :func:`detkit.assigners.build_assigner`; what the constructor does not know is left out.

        Raises:
            ConfigError: a value that cannot be.
        """
        arguments = {name: value for name, value in given.items() if name in inspect.signature(cls).parameters}
        if cls.config_section is None:
            return arguments
        section = Section(cfg, f"MODEL.ASSIGNERS.{cls.config_section}")
        section.check(ASSIGNER_LIMITS.get(cls.config_section, {}))
        return {key.lower(): value for key, value in section.items()} | arguments

    def __call__(self, context: AssignContext) -> Assignment:
        """The assignment of a batch."""
        with torch.set_grad_enabled(self.gives_weights and torch.is_grad_enabled()):
            return super().__call__(context)

    def max_positives(self, num_gts: int, priors: Priors) -> int:
        """The most priors of an image that can get an object, for losses that make room for these alone."""
        return priors.num_priors

    def ahead(self, context: AssignContext) -> Pairs | HardAssignment | tuple[int, int] | None:
        """What objects and priors alone decide, and the host makes before the rest is computed: candidates, whose number it has to know,
        the labels, or the shape of windows. None: nothing."""
        return None

    def forward(self, context: AssignContext) -> Assignment:
        raise NotImplementedError
