import pytest
import torch
from torchvision.ops import nms

from detkit.layers import nms_mask, nms_mask_by_offsets

WAYS = pytest.mark.parametrize("way", [nms_mask, nms_mask_by_offsets])


def scene(batch=3, count=300, classes=4, *, whole=False):
    torch.manual_seed(1)
    corner = torch.rand(batch, count, 2) * 300 - 40
    boxes = torch.cat([corner, corner + torch.rand(batch, count, 2) * 90], dim=-1)
    scores = torch.randint(0, 40, (batch, count)) / 40 if whole else torch.rand(batch, count)
    scores[:, ::7] = -1.0
    return boxes.round() if whole else boxes, scores, torch.randint(classes, (batch, count))


@WAYS
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6, 0.7])
def test_equals_a_loop_over_images_and_classes(way, whole, threshold):
    boxes, scores, classes = scene(whole=whole)
    expected = torch.zeros_like(scores, dtype=torch.bool)
    for image in range(len(boxes)):
        for number in range(4):
            rows = ((classes[image] == number) & (scores[image] >= 0)).nonzero().squeeze(1)
            expected[image, rows[nms(boxes[image, rows], scores[image, rows], threshold)]] = True
    assert 0 < expected.sum() < (scores >= 0).sum()
    assert torch.equal(way(boxes, scores, classes, threshold), expected)


@WAYS
def test_iou_at_the_threshold_is_taken_as_float32_takes_it(way):
    # IoU 3/5 and 7/10: the nearest float32 number lies above the threshold in the first case, below it in the second
    boxes = torch.tensor([[[0.0, 0, 3, 1], [0, 0, 5, 1]], [[0.0, 0, 7, 1], [0, 0, 10, 1]]])
    scores, classes = torch.tensor([[0.9, 0.8]] * 2), torch.zeros(2, 2, dtype=torch.int64)
    assert way(boxes[:1], scores[:1], classes[:1], 0.6).tolist() == [[True, False]]
    assert way(boxes[1:], scores[1:], classes[1:], 0.7).tolist() == [[True, True]]


@WAYS
def test_nothing_there_keeps_nothing(way):
    boxes, scores, classes = scene(count=20)
    assert not way(boxes, torch.full_like(scores, -1.0), classes, 0.5).any()
    many = torch.randint(1203, classes.shape)  # far groups keep the digits of their coordinates
    assert torch.equal(way(boxes, scores, many, 0.5), nms_mask(boxes, scores, many, 0.5))


@WAYS
@pytest.mark.parametrize("value", [1e18, float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("there", [True, False])
def test_a_wild_box_changes_nothing_for_the_others(way, value, there):
    boxes, scores, classes = scene()
    boxes[0, 3], scores[0, 3] = value, 0.5 if there else -1.0
    others = torch.arange(300) != 3
    expected = way(boxes[:, others], scores[:, others], classes[:, others], 0.5)
    assert 0 < expected.sum() < (scores >= 0).sum()
    assert torch.equal(way(boxes, scores, classes, 0.5)[:, others], expected)


@pytest.mark.parametrize("spread", [1.0, 40.0])
def test_the_best_that_are_wanted_are_those_of_all(spread):
    boxes, scores, classes = scene(count=400, classes=2)
    boxes = boxes / spread  # crowded, so that far more have to be compared than are wanted
    everything = nms_mask(boxes, scores, classes, 0.3)
    few = nms_mask(boxes, scores, classes, 0.3, 7)
    for image in range(len(boxes)):
        best = (
            scores[image].masked_fill(~everything[image], -2).argsort(descending=True, stable=True)[: min(7, int(everything[image].sum()))]
        )
        assert few[image, best].all() and not (few[image] & ~everything[image]).any()


def test_boxes_that_lie_far_apart_keep_their_digits():
    boxes, scores, classes = scene(count=60)
    expected = nms_mask(boxes, scores, classes, 0.5)
    far = torch.cat([boxes, torch.tensor([0.0, 0, 1e30, 1e30]).expand(len(boxes), 1, 4)], dim=1)
    found = nms_mask(far, torch.cat([scores, torch.full((3, 1), 0.9)], 1), torch.cat([classes, torch.full((3, 1), 9)], 1), 0.5)
    assert torch.equal(found[:, :-1], expected) and found[:, -1].all()
