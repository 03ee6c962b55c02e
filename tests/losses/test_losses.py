import pytest
import torch
import torch.nn.functional as F
from fvcore.nn import giou_loss as fvcore_giou_loss
from fvcore.nn import sigmoid_focal_loss
from torch.testing import assert_close

from detkit.losses import (
    background_loss,
    blocks,
    focal_loss_from_labels,
    generalized_iou,
    giou_loss,
    iou_loss,
    linear_iou_loss,
    paired_iou,
    softplus,
)


def random_boxes(count, seed):
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 10
    return torch.cat([corners.amin(1), corners.amax(1) + 0.5], dim=1)


@pytest.mark.parametrize("alpha,gamma", [(0.25, 2.0), (0.5, 1.5), (-1.0, 2.0), (0.25, 0.0)])
def test_focal_equals_fvcore_in_value_and_gradient(alpha, gamma):
    logits = torch.randn(3, 40, 6, requires_grad=True)
    labels = torch.randint(0, 7, (3, 40))
    one_hot = F.one_hot(labels, 7)[..., :6].float()
    ours = focal_loss_from_labels(logits, labels, alpha=alpha, gamma=gamma)
    theirs = sigmoid_focal_loss(logits, one_hot, alpha=alpha, gamma=gamma, reduction="sum")
    assert_close(ours, theirs)
    assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits))


def test_focal_is_exact_to_float32_where_scores_are_tiny_and_large():
    logits = torch.linspace(-30, 30, 601).view(-1, 1).requires_grad_()
    for label in (0, 1):
        labels = torch.full((601,), label)
        rows = focal_loss_from_labels(logits, labels, per_row=True)
        exact = focal_loss_from_labels(wide := logits.detach().double().requires_grad_(), labels, per_row=True)
        assert_close(rows.double(), exact, rtol=2e-6, atol=2e-6)
        (grad,), (wide_grad,) = torch.autograd.grad(rows.sum(), logits), torch.autograd.grad(exact.sum(), wide)
        assert_close(grad.double(), wide_grad, rtol=2e-6, atol=1e-35)


def test_focal_under_autocast_is_float32_and_is_differentiated_once():
    logits, labels = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 3, 3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = focal_loss_from_labels(logits.bfloat16(), labels)
        assert loss.dtype == torch.float32
        assert_close(loss, focal_loss_from_labels(logits.bfloat16().float(), labels))
    for loss in (focal_loss_from_labels(logits, labels), background_loss(logits[None])):
        with pytest.raises(RuntimeError, match="cannot be differentiated again"):
            torch.autograd.grad(loss, logits, create_graph=True)


@pytest.mark.parametrize("loss", ["focal", "background"])
def test_classes_may_lie_before_the_locations_in_memory(loss, monkeypatch):
    monkeypatch.setattr(blocks, "CACHED", 24)  # several blocks, the last one shorter
    maps, quality = torch.randn(2, 6, 10), torch.randn(2, 10, requires_grad=True)
    labels, ignore = torch.randint(0, 7, (2, 10)), torch.rand(2, 10) > 0.7
    results = []
    for logits in (maps.transpose(1, 2).requires_grad_(), maps.transpose(1, 2).contiguous().requires_grad_()):
        if loss == "focal":
            value = focal_loss_from_labels(logits, labels, ignore=ignore, scale=torch.tensor(0.3))
            results.append((value, *torch.autograd.grad(value, logits)))
        else:
            value = background_loss(logits, quality, ignore=ignore)
            results.append((value, *torch.autograd.grad(value, (logits, quality))))
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs)


def test_scale_is_a_factor_of_value_and_gradient():
    logits, labels = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 3, 3])
    for factor in (1.0, 2.5):
        scaled = factor * focal_loss_from_labels(logits, labels, scale=torch.tensor(0.2))
        plain = focal_loss_from_labels(logits, labels) * 0.2 * factor
        assert_close(scaled, plain)
        assert_close(torch.autograd.grad(scaled, logits, retain_graph=True), torch.autograd.grad(plain, logits))
        assert_close(
            torch.autograd.grad(scaled, logits), torch.autograd.grad(factor * 0.2 * focal_loss_from_labels(logits, labels), logits)
        )


def test_softplus_is_that_of_torch():
    x = torch.linspace(-110, 110, 441).requires_grad_()
    assert_close(softplus(x), F.softplus(x), rtol=2e-6, atol=1e-30)
    assert_close(torch.autograd.grad(softplus(x).sum(), x)[0], x.sigmoid(), rtol=2e-6, atol=1e-30)


def test_focal_stays_finite_at_extreme_logits():
    logits = torch.tensor([[300.0, -300.0], [-300.0, 300.0]], requires_grad=True)
    loss = focal_loss_from_labels(logits, torch.tensor([1, 2]))
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_ignored_rows_leave_no_trace():
    logits, labels = torch.randn(5, 3, requires_grad=True), torch.tensor([0, 1, 3, 3, 2])
    ignore = torch.tensor([False, True, False, True, False])
    loss = focal_loss_from_labels(logits, labels, ignore=ignore)
    assert_close(loss, focal_loss_from_labels(logits[~ignore], labels[~ignore]))
    loss.backward()
    assert (logits.grad[ignore] == 0).all() and (logits.grad[~ignore] != 0).all()


def test_giou_equals_fvcore_in_value_and_gradient():
    pred, target = random_boxes(30, 0).requires_grad_(), random_boxes(30, 1)
    ours, theirs = giou_loss(pred, target), fvcore_giou_loss(pred, target)
    assert_close(ours, theirs)
    assert_close(torch.autograd.grad(ours.sum(), pred), torch.autograd.grad(theirs.sum(), pred))


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_gradient_of_giou_is_that_of_its_operations(offset, monkeypatch):
    monkeypatch.setattr(generalized_iou, "PAIRS_AT_ONCE", 300)
    corners = torch.randint(
        -3, 9, (2000, 4), generator=torch.Generator().manual_seed(1)
    ).double()  # boxes that touch, are empty or inverted
    pred, target = corners[:1000].requires_grad_(), corners[1000:]
    written, recorded = giou_loss(pred, target, offset=offset), giou_loss(pred[None], target[None], offset=offset)[0]
    assert_close(written, recorded, rtol=0, atol=0)
    weights = torch.linspace(0.5, 2, 1000, dtype=torch.float64)
    assert_close(torch.autograd.grad((written * weights).sum(), pred), torch.autograd.grad((recorded * weights).sum(), pred))


def test_gradient_of_giou_refuses_to_be_differentiated_again():
    pred = random_boxes(3, 0).requires_grad_()
    with pytest.raises(RuntimeError, match="GIoU loss"):
        torch.autograd.grad(giou_loss(pred, random_boxes(3, 1)).sum(), pred, create_graph=True)


def test_iou_loss_by_hand():
    pred, target = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[2.0, 0, 6, 4]])
    assert_close(iou_loss(pred, target), -torch.tensor([8 / 24]).log())
    assert_close(iou_loss(pred, target, offset=1.0), -torch.tensor([9 / 25]).log())
    assert_close(linear_iou_loss(pred, target, offset=1.0), torch.tensor([1 - 9 / 25]))
    assert_close(giou_loss(pred, target, offset=1.0), torch.tensor([1 - 9 / 25]))
    assert_close(paired_iou(pred, target), torch.tensor([8 / 24]))


@pytest.mark.parametrize("loss", [iou_loss, linear_iou_loss, giou_loss])
def test_perfect_boxes_cost_nothing_and_disjoint_ones_stay_finite(loss):
    boxes = random_boxes(8, 2)
    assert_close(loss(boxes, boxes), torch.zeros(8, dtype=torch.float64), atol=1e-6, rtol=0)
    far = (boxes + 1000).requires_grad_()
    value = loss(far, boxes).sum()
    value.backward()
    assert value.isfinite() and far.grad.isfinite().all()


@pytest.mark.parametrize("loss", [iou_loss, linear_iou_loss, giou_loss])
def test_gradients_by_finite_differences(loss):
    pred, target = random_boxes(6, 3), random_boxes(6, 3) + 0.7
    assert torch.autograd.gradcheck(lambda p: loss(p, target, offset=1.0), pred.requires_grad_())
