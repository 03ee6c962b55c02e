"""The losses of LSNet (section 4.2, equation 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from detkit.distributed import reduce_mean
from detkit.geometry import Priors, elementwise_iou
from detkit.losses import focal_loss_from_labels
from detkit.structures import GroundTruth, HardAssignment

from .cross_iou import VectorLoss, VectorPairs
from .landmarks import LandmarkSet
from .tasks import Task

__all__ = ["LSCriterion", "Positives", "Stage", "log_iou", "vector_pairs"]

#: vectors are compared in units of so many strides (official code: point_base_scale)
UNIT_STRIDES = 4.0
#: keeps quotients finite where no object has the landmarks of a task
EPS = 1e-6
#: iterations between two means of the IoU, as many as between two lines of the log
LOG_PERIOD = 20


class Positives(NamedTuple):
    """The priors of each image that have an object, listed in order, with room for ``M``.

    Attributes:
        prior_index: (B, M) int64.
        gt_index: (B, M) int64, the objects; 0 where there is none.
        valid: (B, M) bool, False for places left over.
    """

    prior_index: Tensor
    gt_index: Tensor
    valid: Tensor

    @classmethod
    def of(cls, assignment: HardAssignment, room: int) -> Positives:
        """The positives of an assignment that has at most ``room`` of them per image."""
        positive = assignment.gt_index >= 0
        batch, num_priors = positive.shape
        place = torch.where(positive, positive.cumsum(1) - 1, room)
        everyone = torch.arange(num_priors, device=positive.device).expand(batch, -1)
        index = place.new_zeros(batch, room + 1).scatter_(1, place, everyone)[:, :room]
        valid = torch.arange(room, device=positive.device) < positive.sum(1, keepdim=True)
        return cls(index, assignment.gt_index.gather(1, index).clamp(min=0), valid)


class Stage(NamedTuple):
    """What one stage predicts, and what it should.

    Attributes:
        vectors: name of a set of landmarks -> (B, 4 * (V + 1), P) cross coordinates in cells.
        assignment: of the objects to priors.
        room: the most priors of an image that the assignment can give an object.
    """

    vectors: Mapping[str, Tensor]
    assignment: HardAssignment
    room: int


class LSCriterion(nn.Module):
    """Focal loss on the classes and a loss on the vectors of both stages, each divided by the number of its positives.

    Of several tasks, an object whose landmarks are unknown for one is no positive of it (:attr:`lsnet.tasks.Task.skips_unknown`).
    Only the vectors of the positives are read, padded to as many as there can be, so that shapes follow from the shape of the input alone.

    Args:
        task: what is regressed.
        num_classes: K.
        vector_loss: see :mod:`lsnet.cross_iou`.
        init_weight, refine_weight: beta and gamma of equation 2.
        box_factor: further factor for the boxes that are learned beside another set of landmarks (official code: 0.1).
        focal_alpha, focal_gamma: of the focal loss.
    """

    def __init__(
        self,
        *,
        task: Task,
        num_classes: int,
        vector_loss: VectorLoss,
        init_weight: float = 1.0,
        refine_weight: float = 2.0,
        box_factor: float = 0.1,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
    ) -> None:
        super().__init__()
        self.task = task
        #: the sets that no task asks for, by name, which are boxes that are learned beside them
        self.beside = {s.name for s in task.sets} - {part.landmarks.name for part in task.parts}
        self.num_classes = num_classes
        self.vector_loss = vector_loss
        self.init_weight = init_weight
        self.refine_weight = refine_weight
        self.box_factor = box_factor
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma

    def forward(self, logits: Tensor, stages: Sequence[Stage], gt: GroundTruth, priors: Priors) -> dict[str, Tensor]:
        """Scalar losses: ``loss_cls`` by the assignment of the last stage, and of every set ``loss_<set>_init`` and ``loss_<set>_refine``.

        Args:
            logits: (B, P, K).
            stages: the first and, for a detector of two, the second.
            gt: with landmarks, those of several tasks one behind the other; at least one object, valid or not, per image.
            priors: where the vectors start.
        """
        objects = self._objects_of_sets(gt)
        everyone = [Positives.of(stage.assignment, stage.room) for stage in stages]
        learning = [{s.name: self._learning(s, positives, objects[s.name]) for s in self.task.sets} for positives in everyone]
        norms = self._norms(stages, everyone, learning, like=logits)
        losses = {"loss_cls": self.classes(logits, stages[-1].assignment, gt) / norms[-1, 0]}
        weights = {"init": self.init_weight, "refine": self.refine_weight}
        for number, ((name, weight), stage) in enumerate(zip(weights.items(), stages, strict=False)):
            for place, landmarks in enumerate(self.task.sets, start=1):
                factor = weight * self.box_factor if landmarks.name in self.beside else weight
                positives = learning[number][landmarks.name]
                pairs = vector_pairs(stage.vectors[landmarks.name], landmarks, positives, objects[landmarks.name], priors)
                if landmarks is self.task.box_landmarks:
                    log_iou(f"iou_{name}", pairs, positives.valid)
                total = (self.vector_loss(pairs) * positives.valid).sum()
                losses[f"loss_{landmarks.name}_{name}"] = factor * total / norms[number, place]
        return losses

    def _objects_of_sets(self, gt: GroundTruth) -> dict[str, GroundTruth]:
        """The objects with the landmarks of every set alone, by its name; with all for those that are learned beside them."""
        own = {} if gt.landmarks is None else self.task.split(gt.landmarks)
        return {s.name: replace(gt, landmarks=own.get(s.name, gt.landmarks)) for s in self.task.sets}

    def _learning(self, landmarks: LandmarkSet, positives: Positives, objects: GroundTruth) -> Positives:
        """The positives whose objects have the landmarks of a set."""
        if not self.task.skips_unknown or landmarks.name in self.beside or objects.landmarks is None:
            return positives
        known = (objects.landmarks[..., 2] > 0).any(-1)  # (B, G)
        return positives._replace(valid=positives.valid & known.gather(1, positives.gt_index))

    def _norms(
        self, stages: Sequence[Stage], everyone: Sequence[Positives], learning: Sequence[Mapping[str, Positives]], *, like: Tensor
    ) -> Tensor:
        """(stages, 1 + sets) numbers of positives: of a stage, and of each set those whose objects have its landmarks."""
        counts = []
        for stage, positives, of_sets in zip(stages, everyone, learning, strict=True):
            # an image without positives counts as having one, as in the official code
            count = (stage.assignment.gt_index >= 0).sum(1).clamp(min=1).sum()
            counts += [count, *(count if own is positives else count - (positives.valid & ~own.valid).sum() for own in of_sets.values())]
        norms = reduce_mean(torch.stack(counts).to(like)).unflatten(0, (len(stages), -1))
        return norms.clamp(min=EPS) if self.task.skips_unknown else norms

    def classes(self, logits: Tensor, assignment: HardAssignment, gt: GroundTruth) -> Tensor:
        """Focal loss of logits (B, P, K), summed."""
        index = assignment.gt_index
        labels = torch.where(index >= 0, gt.classes.gather(1, index.clamp(min=0)), self.num_classes)
        return focal_loss_from_labels(logits, labels, alpha=self.focal_alpha, gamma=self.focal_gamma, ignore=assignment.ignore)


@torch.no_grad()
def log_iou(name: str, pairs: VectorPairs, valid: Tensor) -> None:
    """Notes the mean IoU of the boxes that the valid positives (B, M) predict with their objects' boxes (figure 4), every 20 iterations of
    a training. Batches without positives note nothing."""
    if not has_event_storage() or (get_event_storage().iter + 1) % LOG_PERIOD:
        return
    total = (elementwise_iou(pairs.boxes, pairs.target_boxes) * valid).sum()
    total, number = torch.stack([total, valid.sum()]).tolist()  # the one time that the device is waited for
    if number:
        get_event_storage().put_scalar(name, total / number)


def vector_pairs(vectors: Tensor, landmarks: LandmarkSet, positives: Positives, gt: GroundTruth, priors: Priors) -> VectorPairs:
    """What the positives (B, M) predict, of vectors (B, 4 * (V + 1), P) in cells, beside what they should, in units of four strides. Finite
    numbers without meaning where the positives are not valid."""
    if gt.landmarks is None:
        raise ValueError("LSNet learns from 'gt_landmarks', which the data lack: let INPUT.MAPPER be 'LandmarkMapper'.")
    images = torch.arange(len(gt.boxes), device=gt.boxes.device)[:, None]
    boxes = gt.boxes[images, positives.gt_index]  # (B, M, 4)
    points = priors.points[positives.prior_index]
    unit = UNIT_STRIDES * priors.strides[positives.prior_index][..., None]  # (B, M, 1)
    pred = vectors.gather(2, positives.prior_index[:, None].expand(-1, vectors.shape[1], -1))  # (B, 4 * (V + 1), M)
    pred = pred.transpose(1, 2).unflatten(2, (-1, 4)) / UNIT_STRIDES
    offsets, known = landmarks.targets(points, gt.landmarks[images, positives.gt_index], boxes)
    return landmarks.pairs(pred, offsets / unit[..., None], known, (boxes - points.repeat(1, 1, 2)) / unit)
