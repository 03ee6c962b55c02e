"""Sets of landmarks around an anchor point: what a branch of the head regresses, and what it should (LSNet, sections 3.2 and 4.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detkit.geometry import box_centers

from .cross_iou import Groups, VectorPairs, from_cross_coordinates

__all__ = ["KERNEL_POINTS", "BoxSides", "Contour", "ExtremePoints", "Keypoints", "LandmarkSet", "SideMiddles", "point_offsets"]

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


def point_offsets(points: Tensor, landmarks: Tensor, boxes: Tensor) -> Tensor:
    """Vectors (..., V + 1, 2) from anchor points (..., 2) to landmarks (..., V, 2) and, last, to the centers of boxes (..., 4)."""
    return torch.cat([landmarks, box_centers(boxes)[..., None, :]], dim=-2) - points[..., None, :]


@dataclass(frozen=True)
class LandmarkSet:
    """Landmarks that one branch of the head regresses. The vectors of a branch lead to the landmarks and, last, to the box center.

    Attributes:
        name: of the branch, in names of losses and weights.
        num_landmarks: V.
        kernel_vectors: indices of the vectors to which points of the deformable kernel are put, at most 9.
        bounds_object: the landmarks' box is the object's, and is learned as such.
        groups: of the vectors in the official cross-IoU.
    """

    name: str
    num_landmarks: int
    kernel_vectors: tuple[int, ...]
    bounds_object: bool = True
    groups: Groups = 1

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

    def pairs(self, vectors: Tensor, offsets: Tensor, known: Tensor, boxes: Tensor) -> VectorPairs:
        """What the branch predicts (..., V + 1, 4) beside its :meth:`targets` and the objects' boxes (..., 4), all relative to the anchor
        point and in one unit."""
        made = self.boxes(self.offsets(vectors)[..., :-1, :])
        return VectorPairs(vectors, offsets, known, made, boxes, self.groups, self.bounds_object)


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
        return _side_offsets(points, box_centers(boxes), boxes)


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
        return _side_offsets(points, points, boxes)


def _side_offsets(points: Tensor, crossing: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Targets of the points on the sides of boxes (..., 4) that lie straight above, left, below and right of x, y (..., 2), all known."""
    (x, y), (x0, y0, x1, y1) = crossing.unbind(-1), boxes.unbind(-1)
    landmarks = torch.stack([x, y0, x0, y, x, y1, x1, y], dim=-1).unflatten(-1, (4, 2))
    offsets = point_offsets(points, landmarks, boxes)
    return offsets, torch.ones_like(offsets[..., 0], dtype=torch.bool)


class Contour(LandmarkSet):
    """At least nine points spread evenly along the outline of an object, the first near the middle of its upper side (section 4.2).

    The kernel's points are put to eight of them and to the center: of 36 to every fifth, as in the official code.
    """

    def __init__(self, num_landmarks: int = 36) -> None:
        if num_landmarks < KERNEL_POINTS:
            raise ValueError(f"num_landmarks is {num_landmarks}. It has to be at least {KERNEL_POINTS}.")
        eight = (round(i * (num_landmarks - 1) / (KERNEL_POINTS - 2)) for i in range(KERNEL_POINTS - 1))
        super().__init__("segm", num_landmarks, kernel_vectors=(*eight, num_landmarks), groups=CONTOUR_GROUPS)

    def typical(self) -> Tensor:
        """A circle, from the top over the left side."""
        angles = torch.arange(self.num_landmarks) * (2 * math.pi / self.num_landmarks)
        return torch.cat([-torch.stack([angles.sin(), angles.cos()], dim=-1), torch.zeros(1, 2)])


class Keypoints(LandmarkSet):
    """Named keypoints, at least one (section 4.2).

    Of COCO's 17 the kernel's points are put to every second, starting from the second, and to the center, as in the official code: these
    are the joints of the left side. Other numbers of keypoints are thinned out in the same way.
    """

    def __init__(self, num_landmarks: int = 17) -> None:
        if num_landmarks < 1:
            raise ValueError(f"num_landmarks is {num_landmarks}. It has to be at least 1.")
        odd = range(1, num_landmarks, 2)
        step = -(-len(odd) // (KERNEL_POINTS - 1)) or 1
        super().__init__("pose", num_landmarks, kernel_vectors=(*odd[::step], num_landmarks), bounds_object=False, groups="axes")

    def typical(self) -> Tensor:
        """A standing person for 17 keypoints, taken to be COCO's."""
        return torch.tensor((*STANDING, (0.0, 0.0))) if self.num_landmarks == len(STANDING) else super().typical()
