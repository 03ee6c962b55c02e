"""The loss of a second assignment beside the one that a detector is tested with."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from detkit.assigners import Assigner, Assignment
from detkit.dense.criteria import LabelCriterion, WeightedCriterion
from detkit.geometry import Priors
from detkit.structures import GroundTruth, Predictions

__all__ = ["AuxiliaryLoss"]


class AuxiliaryLoss(nn.Module):
    """A many-to-one assignment on the class logits and boxes of a head that learns one-to-one, so that more locations learn what an object
    looks like (Wang et al., End-to-End Object Detection with Fully Convolutional Network, CVPR 2021, section 3.4).

    It sees no quality: that is the branch by which a location stands out among its neighbors, which these labels would undo. In training
    alone; a detector is tested as if it were not there.

    Args:
        assigner: which prior learns which object here.
        criterion: the losses of these labels or weights.
        cls_weight: factor of all terms but that of the boxes.
        box_weight: factor of the term of the boxes (the paper: 0). A term with the factor 0 is left out.
    """

    def __init__(
        self,
        *,
        assigner: Assigner,
        criterion: LabelCriterion | WeightedCriterion,
        cls_weight: float = 1.0,
        box_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.assigner = assigner
        self.criterion = criterion
        self.cls_weight = cls_weight
        self.box_weight = box_weight

    @staticmethod
    def seen(predictions: Predictions) -> Predictions:
        """What its assigner and its losses see of the predictions."""
        return replace(predictions, quality=None)

    def forward(self, predictions: Predictions, assignment: Assignment, gt: GroundTruth, priors: Priors) -> dict[str, Tensor]:
        """Weighted losses, named as the criterion's with ``auxiliary`` between: ``loss_auxiliary_cls``.

        Args:
            predictions: as :meth:`seen`.
            assignment: that the assigner has made of them.
            gt, priors: of the batch.
        """
        losses = self.criterion(predictions, assignment, gt, priors)
        weights = {name: self.box_weight if name == "loss_box" else self.cls_weight for name in losses}
        return {name.replace("loss_", "loss_auxiliary_", 1): weights[name] * loss for name, loss in losses.items() if weights[name]}
