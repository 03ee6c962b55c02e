"""The criterion of weighted pairs against the published losses, written out on all scores."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from fvcore.nn import sigmoid_focal_loss
from torch.testing import assert_close

from detkit.assigners import (
    AssignContext,
    ATSSAssigner,
    AutoAssignAssigner,
    DWAssigner,
    FCOSAssigner,
    GFLAssigner,
    MuSuAssigner,
    VFLAssigner,
)
from detkit.assigners.soft import hard_pairs
from detkit.assigners.task_aligned import normalized_alignment
from detkit.dense.criteria import WeightedCriterion
from detkit.geometry import elementwise_iou
from detkit.losses import giou_loss
from detkit.structures import GroundTruth, HardAssignment, Predictions
from tests.toys.scenes import NUM_CLASSES, dense_scores, make_context


def losses_of(context, assignment):
    criterion = WeightedCriterion(num_classes=NUM_CLASSES, box_loss=giou_loss)
    return criterion(context.predictions, assignment, context.gt, context.priors)


def dense_targets(context, assigner):
    """(B, P, K) IoU of the box where a hard assigner has a positive, its mask, and pairs with their IoU."""
    pairs = hard_pairs(assigner(context), context.gt)
    values = pairs.look_up(context.predictions, context.gt)
    iou = elementwise_iou(values.boxes, values.gt_boxes).detach()
    target = torch.zeros_like(context.predictions.logits)
    mask = torch.zeros_like(target, dtype=torch.bool)
    index = pairs.score_index(context.gt, NUM_CLASSES)
    target.view(-1)[index], mask.view(-1)[index] = iou, True
    return target, mask, values, iou


def assert_same_gradient(context, actual, expected):
    inputs = [x for x in (context.predictions.logits, context.predictions.boxes, context.predictions.quality) if x is not None]
    ours, theirs = (torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True) for loss in (actual, expected))
    for a, b in zip(ours, theirs, strict=True):
        assert_close(torch.zeros(()) if a is None else a, torch.zeros_like(torch.zeros(()) if a is None else a) if b is None else b)


@pytest.mark.parametrize("quality", [True, False])
def test_gfl_is_quality_focal_loss(quality):
    context = make_context(quality=quality)
    target, mask, values, _ = dense_targets(context, ATSSAssigner())
    scores = dense_scores(context.predictions)
    expected = ((scores - target).abs() ** 2 * F.binary_cross_entropy(scores, target, reduction="none")).sum() / mask.sum()
    result = GFLAssigner(base=ATSSAssigner())(context)
    losses = losses_of(context, result)
    assert_close(losses["loss_cls_pos"] + losses["loss_cls_neg"], expected)
    assert_same_gradient(context, losses["loss_cls_pos"] + losses["loss_cls_neg"], expected)
    weight = torch.stack([context.predictions.logits.view(-1, NUM_CLASSES)[i].max().sigmoid() for i in result.pairs.prior_index]).detach()
    assert_close(losses["loss_box"], 2 * (weight * giou_loss(values.boxes, values.gt_boxes)).sum() / weight.sum().clamp(min=1))


def test_vfl_is_varifocal_loss():
    context = make_context()
    target, mask, values, iou = dense_targets(context, ATSSAssigner())
    scores = dense_scores(context.predictions)
    weight = torch.where(mask, target, 0.75 * scores**2)
    expected = (weight * F.binary_cross_entropy(scores, target, reduction="none")).sum() / mask.sum()
    losses = losses_of(context, VFLAssigner(base=ATSSAssigner())(context))
    assert_close(losses["loss_cls_pos"] + losses["loss_cls_neg"], expected)
    assert_same_gradient(context, losses["loss_cls_pos"] + losses["loss_cls_neg"], expected)
    assert_close(losses["loss_box"], 1.5 * (iou * giou_loss(values.boxes, values.gt_boxes)).sum() / iou.sum().clamp(min=1))


def test_hard_labels_have_focal_loss():
    context = make_context(quality=False)
    labels = FCOSAssigner(sizes_of_interest=(64, 128))(context)
    labels.gt_index[0, 200:210] = -1
    ignore = torch.zeros_like(labels.gt_index, dtype=torch.bool)
    ignore[0, 200:210] = True
    labels = HardAssignment(labels.gt_index, ignore)
    one_hot = torch.zeros_like(context.predictions.logits)
    pairs = hard_pairs(labels, context.gt)
    one_hot.view(-1)[pairs.score_index(context.gt, NUM_CLASSES)] = 1
    count = one_hot.sum()
    expected = sigmoid_focal_loss(context.predictions.logits, one_hot, alpha=0.25, gamma=2)[~ignore].sum() / count
    losses = losses_of(context, labels)
    assert_close(losses["loss_cls_pos"] + losses["loss_cls_neg"], expected)
    assert_same_gradient(context, losses["loss_cls_pos"] + losses["loss_cls_neg"], expected)
    values = pairs.look_up(context.predictions, context.gt)
    assert_close(losses["loss_box"], giou_loss(values.boxes, values.gt_boxes).mean())


def negative_sum(context, result, of_pair):
    """Sum over all scores of ``s ** 2 * -ln(1 - s)``, with ``of_pair(i, s)`` instead where pair i decides."""
    scores = dense_scores(context.predictions).flatten()
    total = (scores**2 * -(1 - scores).log()).tolist()
    owners = {}
    for i, index in enumerate(result.pairs.score_index(context.gt, NUM_CLASSES).tolist()):
        owners[index] = i
    for index, i in owners.items():
        total[index] = of_pair(i, scores[index].item())
    return math.fsum(total)


@pytest.mark.parametrize("negative", ["full", "probability", "importance", "none", "one_minus_positive"])
def test_dw_and_the_parts_of_its_negative_weight(negative):
    """DW, equations 8 and 12, on the rows of table 5."""
    context = make_context()
    result = DWAssigner(num_classes=NUM_CLASSES, negative=negative, gamma2=3.0)(context)
    plain_weights = DWAssigner(num_classes=NUM_CLASSES, negative="probability")(context)
    probability = plain_weights.negative_weight.tolist()

    def of_pair(i, s):
        weight = {
            "full": probability[i] * s**3,
            "probability": probability[i],
            "importance": s**3,
            "none": 0.0,
            "one_minus_positive": max(1 - float(plain_weights.positive_weight[i]) / 0.25, 0.0),
        }[negative]
        return weight * -math.log(1 - s)

    losses = losses_of(context, result)
    assert_close(losses["loss_cls_neg"].item(), negative_sum(context, result, of_pair) / float(result.normalizers[1]), rtol=1e-5, atol=0)
    values = result.pairs.look_up(context.predictions, context.gt)
    positive = plain_weights.positive_weight
    assert_close(losses["loss_cls_pos"], (positive * -values.score.log()).sum() / 5)
    assert_close(losses["loss_box"], 5 * (positive * giou_loss(values.boxes, values.gt_boxes)).sum() / 5)


def test_the_squared_score_of_a_dw_negative_carries_gradient():
    context = make_context(quality=False)
    result = DWAssigner(num_classes=NUM_CLASSES)(context)
    losses = losses_of(context, result)
    gradient = torch.autograd.grad(losses["loss_cls_neg"], context.predictions.logits)[0].flatten()
    i = int(result.counts_negative.nonzero()[5])
    index = result.pairs.score_index(context.gt, NUM_CLASSES)[i]
    s = dense_scores(context.predictions).flatten()[index].detach()
    weight = DWAssigner(num_classes=NUM_CLASSES, negative="probability")(context).negative_weight[i]
    expected = weight * (2 * s * -(1 - s).log() + s**2 / (1 - s)) * s * (1 - s) / result.normalizers[1]
    assert_close(gradient[index], expected)


def test_musu_has_the_weights_of_table_1():
    context = make_context()
    result = MuSuAssigner()(context)
    score, iou = result.values.score.detach(), elementwise_iou(result.values.boxes, result.values.gt_boxes).detach()
    target = normalized_alignment(iou**4 * score, iou, result.pairs.gt_index, context.gt.valid.numel())
    t = target.tolist()
    losses = losses_of(context, result)
    norm = max(math.fsum(t), 1.0)
    expected = negative_sum(context, result, lambda i, s: s**2 * (1 - t[i]) ** 4 * -math.log(1 - s))
    assert_close(losses["loss_cls_neg"].item(), expected / norm, rtol=1e-5, atol=0)
    s = result.pairs.look_up(context.predictions, context.gt).score
    assert_close(losses["loss_cls_pos"], ((s - target) ** 2 * target * -s.log()).sum() / norm)


@pytest.mark.parametrize("weights", ["learned", "detached"])
def test_autoassign_weighs_scores(weights):
    """AutoAssign, equation 8."""
    context = make_context()
    result = AutoAssignAssigner(num_classes=NUM_CLASSES, weights=weights)(context)
    losses = losses_of(context, result)
    values = result.pairs.look_up(context.predictions, context.gt)
    likelihood = result.positive_weight * values.score * (-5 * giou_loss(values.boxes, values.gt_boxes)).exp()
    expected = sum(-likelihood[result.pairs.gt_index == gt].sum().log() for gt in result.pairs.gt_index.unique())
    assert_close(losses["loss_pos"], 0.25 * expected / 5)
    negatives = negative_sum(
        context, result, lambda i, s: (float(result.negative_weight[i]) * s) ** 2 * -math.log(1 - float(result.negative_weight[i]) * s)
    )
    assert_close(losses["loss_cls_neg"].item(), 0.75 * negatives / float(result.normalizers[1].clamp(min=1)), rtol=1e-5, atol=0)
    assert ("loss_center" in losses) == (weights == "learned")


def test_autoassign_on_the_loss_is_weighted_like_dw():
    context = make_context()
    result = AutoAssignAssigner(num_classes=NUM_CLASSES, weights="on_loss")(context)
    values = result.pairs.look_up(context.predictions, context.gt)
    losses = losses_of(context, result)
    weight = AutoAssignAssigner(num_classes=NUM_CLASSES, weights="detached")(context).positive_weight
    assert weight.sum() > 0
    assert_close(losses["loss_cls_pos"], 0.25 * (weight * -values.score.log()).sum() / 5)
    assert_close(losses["loss_box"], 1.25 * (weight * giou_loss(values.boxes, values.gt_boxes)).sum() / 5)


@pytest.mark.parametrize("objects", [[([], [])], [([], []), ([[41, 41, 43, 43]], [1])]])
def test_nothing_to_find(objects):
    """No objects, or only one that no location lies in: background alone, and finite gradients."""
    context = make_context(objects)
    for assigner in (DWAssigner(num_classes=3), AutoAssignAssigner(num_classes=3), GFLAssigner(base=ATSSAssigner()), MuSuAssigner()):
        losses = losses_of(context, assigner(context))
        sum(losses.values()).backward()
        assert context.predictions.logits.grad.isfinite().all() and context.predictions.quality.grad.isfinite().all()
        assert all(loss.item() == 0 for name, loss in losses.items() if name != "loss_cls_neg") or isinstance(assigner, GFLAssigner)
        assert losses["loss_cls_neg"] > 0


@pytest.mark.parametrize("assigner", [DWAssigner(num_classes=3), GFLAssigner(base=ATSSAssigner()), MuSuAssigner()])
def test_two_workers_have_the_losses_of_one(monkeypatch, assigner):
    """Normalizers are means over workers, as gradients are: the mean of the parts' losses is the loss of the whole."""
    whole = make_context()
    parts = [part_of(whole, slice(0, 2)), part_of(whole, slice(2, 3))]
    results = [assigner(part) for part in parts]
    expected = losses_of(whole, assigner(whole))
    mean = torch.stack([result.normalizers for result in results]).mean(0)
    monkeypatch.setattr("detkit.dense.criteria.weighted.reduce_mean", lambda normalizers: mean)
    losses = [losses_of(part, result) for part, result in zip(parts, results, strict=True)]
    for name, value in expected.items():
        assert_close((losses[0][name] + losses[1][name]) / 2, value)


def part_of(context, images):
    gt, predictions = context.gt, context.predictions
    return AssignContext(
        GroundTruth(gt.boxes[images], gt.classes[images], gt.valid[images]),
        context.priors,
        Predictions(predictions.logits[images], predictions.boxes[images], predictions.quality[images]),
    )


@pytest.mark.parametrize("logit", [5.0, 15.0, 30.0])
@pytest.mark.parametrize("quality", [True, False])
def test_a_sure_positive_is_no_gain(logit, quality):
    """What the background has of a positive is taken back whole: else the loss would fall without end while the logit rises."""
    context = make_context(quality=quality)
    labels = ATSSAssigner()(context)
    pairs = hard_pairs(labels, context.gt)
    index = pairs.score_index(context.gt, NUM_CLASSES)
    logits = context.predictions.logits.detach().clone().flatten().index_fill(0, index, logit).requires_grad_()
    sure = Predictions(logits.view_as(context.predictions.logits), context.predictions.boxes, context.predictions.quality)
    loss = losses_of(replace(context, predictions=sure), labels)["loss_cls_neg"]
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss >= 0
    assert_close(gradient[index], torch.zeros_like(gradient[index]), rtol=0, atol=1e-5)
