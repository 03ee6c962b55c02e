"""Merging by hand-computed cases, by a slow loop, and by what must always hold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from detkit.tta import BoxVoting, NonMaximumSuppression, SoftVoting, merge_per_class, merging

WAYS = (NonMaximumSuppression(threshold=0.5), BoxVoting(threshold=0.5), SoftVoting(threshold=0.5, min_score=0.05))

#: the first two overlap with IoU 0.8, the third lies elsewhere
BOXES = torch.tensor([[0.0, 0.0, 10.0, 8.0], [0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
SCORES = torch.tensor([0.6, 0.9, 0.5])
CLASSES = torch.zeros(3, dtype=torch.long)


def merged(way, boxes=BOXES, scores=SCORES, classes=CLASSES):
    result = merge_per_class(boxes, scores, classes, way).best(100)
    return result.average(boxes), result.scores, result.source.tolist()


def test_nms_keeps_the_best_as_it_is():
    boxes, scores, source = merged(NonMaximumSuppression(threshold=0.66))
    torch.testing.assert_close(boxes, BOXES[[1, 2]], rtol=0, atol=0)
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.5]))
    assert source == [1, 2]


def test_voting_averages_by_score():
    boxes, scores, source = merged(BoxVoting(threshold=0.66))
    # (0.9 * 10 + 0.6 * 8) / 1.5
    torch.testing.assert_close(boxes, torch.tensor([[0.0, 0.0, 10.0, 9.2], [20.0, 20.0, 30.0, 30.0]]))
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.5]))
    assert source == [1, 2]


def test_soft_voting_keeps_the_others_with_lower_scores():
    boxes, scores, source = merged(SoftVoting(threshold=0.66, min_score=0.05))
    # 0.6 * (1 - 0.8); its box stays as it was
    torch.testing.assert_close(boxes, torch.tensor([[0.0, 0.0, 10.0, 9.2], [20.0, 20.0, 30.0, 30.0], [0.0, 0.0, 10.0, 8.0]]))
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.5, 0.12]))
    assert source == [1, 2, 0]


@pytest.mark.parametrize("min_score, count", [(0.1, 3), (0.13, 2)])
def test_soft_voting_drops_what_falls_below_its_least_score(min_score, count):
    assert len(merged(SoftVoting(threshold=0.66, min_score=min_score))[1]) == count


def test_a_box_between_two_objects_belongs_to_the_better_one():
    # the outer boxes overlap with IoU 3/7, the middle one overlaps both with 2/3
    boxes = torch.tensor([[4.0, 0.0, 14.0, 10.0], [0.0, 0.0, 10.0, 10.0], [2.0, 0.0, 12.0, 10.0]])
    averaged, _, source = merged(BoxVoting(threshold=0.5), boxes, torch.tensor([0.8, 0.9, 0.1]))
    torch.testing.assert_close(averaged, torch.tensor([[0.2, 0.0, 10.2, 10.0], [4.0, 0.0, 14.0, 10.0]]))
    assert source == [1, 0]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: type(way).__name__)
def test_classes_never_meet(way):
    boxes, scores, source = merged(way, classes=torch.tensor([4, 1, 1]))
    torch.testing.assert_close(boxes, BOXES[[1, 0, 2]])
    assert source == [1, 0, 2]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: type(way).__name__)
def test_nothing_found(way):
    boxes, scores, _ = merged(way, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert boxes.shape == (0, 4) and scores.shape == (0,)


def test_scores_of_zero_vote_alike():
    boxes, _, _ = merged(BoxVoting(threshold=0.5), BOXES[:2], torch.zeros(2), CLASSES[:2])
    torch.testing.assert_close(boxes, torch.tensor([[0.0, 0.0, 10.0, 9.0]]))


def test_best_keeps_the_highest_and_their_members():
    result = merge_per_class(BOXES, SCORES, CLASSES, SoftVoting(threshold=0.66, min_score=0.05)).best(1)
    torch.testing.assert_close(result.average(BOXES), torch.tensor([[0.0, 0.0, 10.0, 9.2]]))
    assert result.best(0).average(BOXES).shape == (0, 4)


def test_anything_with_coordinates_is_averaged_alike():
    result = merge_per_class(BOXES, SCORES, CLASSES, BoxVoting(threshold=0.66)).best(100)
    points = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(result.average(points), torch.stack([0.4 * points[0] + 0.6 * points[1], points[2]]))


# against a slow loop --------------------------------------------------------------------------------------------------------------------


def slow_soft_vote(boxes: Tensor, scores: Tensor, threshold: float, min_score: float) -> tuple[list[Tensor], list[Tensor]]:
    """One object after the other: the best detection that is left takes all that overlap it."""
    left = scores.argsort(descending=True, stable=True).tolist()
    voted, lowered = [], []
    while left:
        best = left[0]
        iou = box_iou(boxes[best, None], boxes[left])[0]
        members = [i for i, overlap in zip(left, iou.tolist(), strict=True) if overlap > threshold or i == best]
        weights = scores[members] / scores[members].sum()
        voted.append(torch.cat([(weights[:, None] * boxes[members]).sum(0), scores[best, None]]))
        for i in members[1:]:
            score = scores[i] * (1 - box_iou(boxes[best, None], boxes[i, None])[0, 0])
            if score >= min_score:
                lowered.append(torch.cat([boxes[i], score[None]]))
        left = [i for i in left if i not in members]
    return voted, lowered


def by_score(rows: list[Tensor]) -> Tensor:
    table = torch.stack(rows)
    return table[table[:, 4].argsort(descending=True)]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 40), threshold=st.sampled_from([0.3, 0.5, 0.66]))
def test_voting_is_the_slow_loop(seed, count, threshold):
    rng = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=rng) * 20
    boxes = torch.cat([corners, corners + 5 + torch.rand(count, 2, generator=rng) * 15], dim=1)
    scores = 0.1 + 0.9 * torch.rand(count, generator=rng)
    voted, lowered = slow_soft_vote(boxes, scores, threshold, 0.05)
    for way, expected in ((BoxVoting(threshold=threshold), voted), (SoftVoting(threshold=threshold), voted + lowered)):
        averaged, found, _ = merged(way, boxes, scores, torch.zeros(count, dtype=torch.long))
        torch.testing.assert_close(torch.cat([averaged, found[:, None]], dim=1), by_score(expected), rtol=1e-4, atol=1e-4)


def test_memory_does_not_grow_with_the_square(monkeypatch):
    sizes = []

    def recorded(first: Tensor, second: Tensor) -> Tensor:
        sizes.append(len(first) * len(second))
        return box_iou(first, second)

    monkeypatch.setattr(merging, "box_iou", recorded)
    monkeypatch.setattr(merging, "_IOU_BLOCK", 10_000)
    corners = torch.arange(1500).float()[:, None] * 20 + torch.zeros(1, 2)
    boxes = torch.cat([corners, corners + 10], dim=1).repeat(2, 1)
    averaged, _, _ = merged(BoxVoting(threshold=0.5), boxes, torch.rand(3000), torch.zeros(3000, dtype=torch.long))
    assert len(averaged) == 100 and max(sizes) <= 10_000 and sum(sizes) == 3000 * 1500


def test_the_best_of_an_object_does_not_stay_beside_its_mean():
    """Also where any lowered score is enough: of two boxes of one object there remain the mean and the other one."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0]])
    merged = SoftVoting(threshold=0.5, min_score=0.0)(boxes, torch.tensor([0.9, 0.5]))
    assert merged.source.tolist() == [0, 1]
    torch.testing.assert_close(merged.scores, torch.tensor([0.9, 0.5 * (1 - 0.8)]))
