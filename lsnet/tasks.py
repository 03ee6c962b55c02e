"""What the three tasks regress: sets of landmarks around an anchor point (LSNet, sections 3.2 and 4.2).

The interface between data and network:

- training targets arrive as Detectron2 ``Instances`` with ``gt_boxes`` (N, 4), the box by which objects are assigned, see
  :attr:`Task.box_source`; ``gt_classes`` (N,); ``gt_landmarks`` (N, V, 3), the task's landmarks as x, y in pixels of the network's input
  and visibility (0: not labeled, its position means nothing). Every set of landmarks has one vector more, the center of ``gt_boxes``,
  which is not stored.
- detections leave the network with ``pred_boxes``, ``scores``, ``pred_classes`` and ``pred_landmarks`` (N, V, 2), x, y in pixels of the
  network's input, of the second stage. What users expect (masks, keypoints) is made from these afterward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from .coding import from_cross_coordinates, point_offsets
from .cross_iou import cross_iou

__all__ = ["BoxSides", "BoxSource", "Contour", "ExtremePoints", "Keypoints", "LandmarkSet", "SideMiddles", "Task", "build_task"]

#: which box ``gt_boxes`` is: the annotated one, the bounds of the contour that is learned, or those of the labeled keypoints
BoxSource = Literal["object", "contour", "keypoints"]

Pair = tuple[Tensor, Tensor]

#: COCO's 17 keypoints of a person who stands and faces the viewer: x, y from the center in halves of the height, nose, then left and right
STANDING = (
    *((0.0, -0.85), (0.07, -0.92), (-0.07, -0.92), (0.15, -0.88), (-0.15, -0.88)),  # nose, eyes, ears
    *((0.3, -0.6), (-0.3, -0.6), (0.5, -0.3), (-0.5, -0.3), (0.6, 0.0), (-0.6, 0.0)),  # shoulders, elbows, wrists
    *((0.2, 0.1), (-0.2, 0.1), (0.25, 0.5), (-0.25, 0.5), (0.3, 0.95), (-0.3, 0.95)),  # hips, knees, ankles
)

#: points of the deformable kernel, 3 x 3
KERNEL_POINTS = 9
#: groups of contour points in the cross-IoU, each of points nine places apart (official code)
CONTOUR_GROUPS = 9


@dataclass(frozen=True)
class LandmarkSet:
    """Landmarks that one branch of the head regresses. The vectors of a branch lead to the landmarks and, last, to the box center.

    Attributes:
        name: of the branch, in names of losses and weights.
        num_landmarks: V.
        kernel_vectors: indices of the vectors to which points of the deformable kernel are put, at most 9.
        bounds_object: the landmarks' box is the object's, and is learned as such.
    """

    name: str
    num_landmarks: int
    kernel_vectors: tuple[int, ...]
    bounds_object: bool = True

    @property
    def num_vectors(self) -> int:
        return self.num_landmarks + 1

    @property
    def num_free_points(self) -> int:
        """Points of the kernel that no vector steers. Their positions are learned without supervision."""
        return KERNEL_POINTS - len(self.kernel_vectors)

    def typical(self) -> Tensor:
        """(V + 1, 2) x, y: where the landmarks and the center of an object might lie, seen from its center, in halves of its size. All at
        the center where nothing is known of them."""
        return torch.zeros(self.num_vectors, 2)

    def offsets(self, vectors: Tensor) -> Tensor:
        """x, y (..., V + 1, 2) from the anchor point, of what the branch predicts (..., V + 1, 4)."""
        return from_cross_coordinates(vectors)

    def targets(self, points: Tensor, landmarks: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """What to learn at anchor points.

        Args:
            points: (..., 2) x, y in pixels.
            landmarks: (..., V, 3) of the task, as in ``gt_landmarks``.
            boxes: (..., 4) xyxy in pixels.

        Returns:
            offsets (..., V + 1, 2) in pixels, and whether they are known (..., V + 1).
        """
        known = nn.functional.pad(landmarks[..., 2] > 0, (0, 1), value=True)
        return point_offsets(points, landmarks[..., :2], boxes), known

    def boxes(self, landmarks: Tensor) -> Tensor:
        """Boxes (..., 4) xyxy that landmarks (..., V, 2), given as x, y, span."""
        return torch.cat([landmarks.amin(-2), landmarks.amax(-2)], dim=-1)

    def overlap(self, pred: Tensor, target: Tensor, visible: Tensor) -> Tensor:
        """Cross-IoU (...) of vectors (..., V + 1, 4), grouped as the official code groups them: here all in one.

        Args:
            pred, target: in cross coordinates.
            visible: (..., V + 1) bool.
        """
        return cross_iou(pred, target, num_groups=1)


class ExtremePoints(LandmarkSet):
    """The top, left, bottom and right extreme point of an object (section 3.2)."""

    def __init__(self) -> None:
        super().__init__("bbox", 4, kernel_vectors=(0, 1, 2, 3, 4))

    def typical(self) -> Tensor:
        return torch.tensor([[0.0, -1.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])

    def boxes(self, landmarks: Tensor) -> Tensor:
        """Each point gives its own side, also where the points contradict each other: such boxes have no area."""
        top, left, bottom, right = landmarks.unbind(-2)
        return torch.stack([left[..., 0], top[..., 1], right[..., 0], bottom[..., 1]], dim=-1)


class SideMiddles(ExtremePoints):
    """The middles of a box's sides, for want of extreme points: the boxes beside the keypoints of a pose (official code)."""

    def targets(self, points: Tensor, landmarks: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        x0, y0, x1, y1 = boxes.unbind(-1)
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        return _known_offsets(points, (x, y0), (x0, y), (x, y1), (x1, y), boxes)


class BoxSides(ExtremePoints):
    """The sides of a box, by vectors straight up, left, down and right: the "rectangle" style of table 2.

    A vector cannot point the other way: a side that the anchor point lies outside of is taken to go through it.
    """

    def offsets(self, vectors: Tensor) -> Tensor:
        up, down, left, right = vectors.unbind(-1)
        zero = torch.zeros_like(up[..., 0])
        x = torch.stack([zero, -left[..., 1], zero, right[..., 3]], dim=-1)
        y = torch.stack([-up[..., 0], zero, down[..., 2], zero], dim=-1)
        return torch.cat([torch.stack([x, y], dim=-1), from_cross_coordinates(vectors[..., 4:, :])], dim=-2)

    def targets(self, points: Tensor, landmarks: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        x, y = points.unbind(-1)
        (x0, y0), (x1, y1) = torch.minimum(boxes[..., :2], points).unbind(-1), torch.maximum(boxes[..., 2:], points).unbind(-1)
        return _known_offsets(points, (x, y0), (x0, y), (x, y1), (x1, y), boxes)


def _known_offsets(points: Tensor, top: Pair, left: Pair, bottom: Pair, right: Pair, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Targets of four points, given as (x, y), all known."""
    landmarks = torch.stack([torch.stack(pair, dim=-1) for pair in (top, left, bottom, right)], dim=-2)
    offsets = point_offsets(points, landmarks, boxes)
    return offsets, torch.ones_like(offsets[..., 0], dtype=torch.bool)


class Contour(LandmarkSet):
    """Points spread evenly along the outline of an object, the first near the middle of its upper side (section 4.2).

    The kernel's points are put to eight of them and to the center: of 36 to every fifth, as in the official code.
    """

    def __init__(self, num_landmarks: int = 36) -> None:
        if num_landmarks < KERNEL_POINTS:
            raise ValueError(f"A contour has at least {KERNEL_POINTS} landmarks, not {num_landmarks} (MODEL.LSNET.CONTOUR_LANDMARKS).")
        eight = (round(i * (num_landmarks - 1) / (KERNEL_POINTS - 2)) for i in range(KERNEL_POINTS - 1))
        super().__init__("segm", num_landmarks, kernel_vectors=(*eight, num_landmarks))

    def typical(self) -> Tensor:
        """A circle, from the top over the left side."""
        angles = torch.arange(self.num_landmarks) * (2 * math.pi / self.num_landmarks)
        return torch.cat([-torch.stack([angles.sin(), angles.cos()], dim=-1), torch.zeros(1, 2)])

    def overlap(self, pred: Tensor, target: Tensor, visible: Tensor) -> Tensor:
        return cross_iou(pred, target, num_groups=CONTOUR_GROUPS)


class Keypoints(LandmarkSet):
    """Named keypoints (section 4.2).

    Of COCO's 17 the kernel's points are put to every second, starting from the second, and to the center, as in the official code: these
    are the joints of the left side. Other numbers of keypoints are thinned out in the same way.
    """

    def __init__(self, num_landmarks: int = 17) -> None:
        if num_landmarks < 1:
            raise ValueError(f"A pose has at least one keypoint, not {num_landmarks} (MODEL.LSNET.NUM_KEYPOINTS).")
        odd = range(1, num_landmarks, 2)
        step = -(-len(odd) // (KERNEL_POINTS - 1)) or 1
        super().__init__("pose", num_landmarks, kernel_vectors=(*odd[::step], num_landmarks), bounds_object=False)

    def typical(self) -> Tensor:
        """A standing person for 17 keypoints, taken to be COCO's."""
        return torch.tensor((*STANDING, (0.0, 0.0))) if self.num_landmarks == len(STANDING) else super().typical()

    def overlap(self, pred: Tensor, target: Tensor, visible: Tensor) -> Tensor:
        axes = 2 * self.num_vectors
        by_axis = (vectors.reshape(*vectors.shape[:-2], axes, 2) for vectors in (pred, target))
        return cross_iou(*by_axis, num_groups=axes, visible=visible.repeat_interleave(2, dim=-1))


@dataclass(frozen=True)
class Task:
    """One of the three tasks.

    Attributes:
        name: ``"bbox"``, ``"segm"`` or ``"pose"``.
        landmarks: what is asked for; its deformable kernel also serves the classification.
        box_landmarks: the set whose boxes are assigned and suppress each other. A second set beside ``landmarks`` learns boxes (pose by
            object boxes); else it is ``landmarks`` itself.
        box_source: which box ``gt_boxes`` has to be.
    """

    name: Literal["bbox", "segm", "pose"]
    landmarks: LandmarkSet
    box_landmarks: LandmarkSet
    box_source: BoxSource

    @property
    def sets(self) -> tuple[LandmarkSet, ...]:
        """All sets that the head regresses."""
        return (self.landmarks,) if self.box_landmarks is self.landmarks else (self.box_landmarks, self.landmarks)


def build_task(cfg: CfgNode) -> Task:
    """The task of ``cfg.MODEL.LSNET``.

    Raises:
        ValueError: a task or a kind of box that does not exist.
    """
    node = cfg.MODEL.LSNET
    if node.TASK == "bbox":
        styles = {"extreme": ExtremePoints, "rectangle": BoxSides}
        if node.BOX_STYLE not in styles:
            raise ValueError(f"MODEL.LSNET.BOX_STYLE is 'extreme' or 'rectangle', not '{node.BOX_STYLE}'.")
        box = styles[node.BOX_STYLE]()
        return Task("bbox", box, box, "object")
    if node.TASK == "segm":
        if node.SEGM_BOX not in ("contour", "object"):
            raise ValueError(f"MODEL.LSNET.SEGM_BOX is 'contour' or 'object', not '{node.SEGM_BOX}'.")
        contour = Contour(node.CONTOUR_LANDMARKS)
        return Task("segm", contour, contour, node.SEGM_BOX)
    if node.TASK == "pose":
        pose = Keypoints(node.NUM_KEYPOINTS)
        if node.POSE_BOX == "object":
            return Task("pose", pose, SideMiddles(), "object")
        if node.POSE_BOX == "keypoints":
            return Task("pose", pose, pose, "keypoints")
        raise ValueError(f"MODEL.LSNET.POSE_BOX is 'object' or 'keypoints', not '{node.POSE_BOX}'.")
    raise ValueError(f"MODEL.LSNET.TASK is 'bbox', 'segm' or 'pose', not '{node.TASK}'.")
