"""Cross coordinates, the cross-IoU and the losses on vectors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lsnet.cross_iou import CrossIoULoss, GIoULoss, SmoothL1Loss, VectorLoss, cross_coordinates, cross_iou, from_cross_coordinates
from lsnet.landmarks import BoxSides, Contour, ExtremePoints, Keypoints, LandmarkSet, SideMiddles

SETS = [ExtremePoints(), BoxSides(), SideMiddles(), Contour(36), Contour(18), Contour(72), Keypoints(17), Keypoints(5)]
LOSSES = [CrossIoULoss(), CrossIoULoss(form="paper"), SmoothL1Loss(), GIoULoss()]


def targets_of(landmarks: LandmarkSet) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets, whether they are known, and boxes of two objects around anchor points inside them, as a branch learns them."""
    generator = torch.Generator().manual_seed(1)
    boxes = torch.tensor([[-3.0, -2.0, 4.0, 5.0], [-1.0, -6.0, 2.0, 1.0]])
    share = torch.rand(2, landmarks.num_landmarks, 2, generator=generator)
    share[:, :4] = torch.tensor([[0.3, 0.0], [0.0, 0.6], [0.7, 1.0], [1.0, 0.2]])
    points = boxes[:, None, :2] + share * (boxes[:, None, 2:] - boxes[:, None, :2])
    given = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    offsets, known = landmarks.targets(torch.zeros(2, 2), given, boxes)
    return offsets, known, boxes


def test_coordinates_by_hand() -> None:
    vectors = cross_coordinates(torch.tensor([[3.0, -2.0], [0.0, 0.0], [-1.0, 4.0]]), 0.2)
    expected = torch.tensor([[2.0, 0.4, 0.6, 3.0], [0.0, 0.0, 0.0, 0.0], [0.8, 4.0, 1.0, 0.2]])  # y-, y+, x-, x+
    torch.testing.assert_close(vectors, expected)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.9])
def test_decoding_undoes_encoding(alpha: float) -> None:
    offsets = torch.randn(50, 3, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(from_cross_coordinates(cross_coordinates(offsets, alpha)), offsets)


def test_cross_iou_is_equation_1() -> None:
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.rand(4, 5, 4, generator=generator), torch.rand(4, 5, 4, generator=generator)
    expected = (
        sum(torch.minimum(p, t).sum(-1) / torch.maximum(p, t).sum(-1) for p, t in zip(pred.unbind(1), target.unbind(1), strict=True)) / 5
    )
    torch.testing.assert_close(cross_iou(pred, target, num_groups=5), expected)
    torch.testing.assert_close(cross_iou(7 * pred, 7 * target, num_groups=3), cross_iou(pred, target, num_groups=3))
    torch.testing.assert_close(cross_iou(pred, pred, num_groups=2), torch.ones(4))


def test_hidden_entries_count_without_gradient() -> None:
    pred, target = torch.rand(1, 4, 2, generator=torch.Generator().manual_seed(0)).requires_grad_(), torch.ones(1, 4, 2)
    visible = torch.tensor([[True, True, False, True]])
    overlap = cross_iou(pred, target, num_groups=4, visible=visible)
    torch.testing.assert_close(overlap, pred.detach().mean(-1)[visible][None].sum(1) / 4)
    overlap.sum().backward()
    assert (pred.grad[0, 2] == 0).all() and (pred.grad[0, 1] > 0).all()


@pytest.mark.parametrize("landmarks", SETS, ids=lambda landmarks: f"{type(landmarks).__name__}{landmarks.num_landmarks}")
@pytest.mark.parametrize("loss", LOSSES, ids=["official", "paper", "smooth_l1", "giou"])
def test_the_best_prediction_has_no_loss_and_others_have(landmarks: LandmarkSet, loss: VectorLoss) -> None:
    offsets, known, boxes = targets_of(landmarks)
    best = cross_coordinates(offsets, 0.2)
    if not isinstance(loss, GIoULoss) or landmarks.bounds_object:
        boxes = landmarks.boxes(landmarks.offsets(best)[..., :-1, :])
        torch.testing.assert_close(loss(landmarks.pairs(best, offsets, known, boxes)), torch.zeros(2), atol=1e-5, rtol=0)
    worse = (best * 1.3 + 0.1).requires_grad_()
    values = loss(landmarks.pairs(worse, offsets, known, boxes))
    assert values.shape == (2,) and (values > 0.01).all()
    values.sum().backward()
    assert worse.grad.isfinite().all() and (worse.grad != 0).any()


def test_box_sides_are_straight() -> None:
    sides = BoxSides()
    offsets, _ = sides.targets(torch.tensor([[5.0, 6.0]]), torch.zeros(1, 4, 3), torch.tensor([[1.0, 2.0, 10.0, 9.0]]))
    torch.testing.assert_close(offsets[0], torch.tensor([[0.0, -4.0], [-4.0, 0.0], [0.0, 3.0], [5.0, 0.0], [0.5, -0.5]]))
    vectors = cross_coordinates(offsets, 0.2) + torch.tensor([0.0, 0.0, 0.3, 0.1])  # noise along x, which top and bottom do not read
    torch.testing.assert_close(sides.offsets(vectors)[0, [0, 2]], offsets[0, [0, 2]])


@pytest.mark.parametrize("landmarks", SETS, ids=lambda landmarks: f"{type(landmarks).__name__}{landmarks.num_landmarks}")
def test_nine_kernel_points(landmarks: LandmarkSet) -> None:
    vectors = landmarks.kernel_vectors
    assert len(set(vectors)) == len(vectors) and len(vectors) + landmarks.num_free_points == 9
    assert max(vectors) == landmarks.num_landmarks  # the center


def test_official_kernel_points() -> None:
    assert Contour(36).kernel_vectors == (0, 5, 10, 15, 20, 25, 30, 35, 36)
    assert Keypoints(17).kernel_vectors == (1, 3, 5, 7, 9, 11, 13, 15, 17)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CrossIoULoss(form="mine"), "form is 'mine'"),
        (lambda: CrossIoULoss(alpha=1.0), r"alpha is 1\.0.*\[0, 1\)"),
        (lambda: SmoothL1Loss(beta=-1.0), r"beta is -1\.0"),
        (lambda: Contour(8), "num_landmarks is 8.*at least 9"),
        (lambda: Keypoints(0), "num_landmarks is 0.*at least 1"),
    ],
)
def test_constructors_name_the_wrong_argument(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
