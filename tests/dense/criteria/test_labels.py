from functools import partial

import pytest
import torch
import torch.nn.functional as F
from fvcore.nn import giou_loss as fvcore_giou_loss
from fvcore.nn import sigmoid_focal_loss
from torch.testing import assert_close

from detkit.dense.criteria import (
    AllPriorsNormalizer,
    LabelCriterion,
    MovingAverageNormalizer,
    MovingClassNormalizer,
    PositivesNormalizer,
    decoded_box_loss,
    encoded_box_loss,
    iou_quality,
    uniform_weights,
)
from detkit.geometry import DeltaBoxCoder, Grid, PointBoxCoder, Priors, boxes_to_ltrb, centerness_of, elementwise_iou, square_anchors
from detkit.losses import giou_loss
from detkit.structures import GroundTruth, HardAssignment, Predictions

NUM_CLASSES = 3


@pytest.fixture
def scene():
    """Two images of 30 locations; three objects in the first, none in the second."""
    priors = Priors(Grid(((4, 5), (2, 5)), (8, 16), 0.5, torch.device("cpu")), square_anchors((8, 16)))
    gt = GroundTruth(
        boxes=torch.tensor([[[0.0, 0, 20, 30], [10, 5, 39, 31], [1, 1, 9, 9]], [[0.0] * 4] * 3]),
        classes=torch.tensor([[2, 0, 1], [0, 0, 0]]),
        valid=torch.tensor([[True] * 3, [False] * 3]),
    )
    index = torch.full((2, 30), -1)
    index[0, 0], index[0, 6], index[0, 12], index[0, 21] = 2, 0, 1, 1
    ignore = torch.zeros(2, 30, dtype=torch.bool)
    ignore[1, 25:] = True
    torch.manual_seed(0)
    logits, raw = torch.randn(2, 30, NUM_CLASSES), torch.rand(2, 30, 4) * 3
    coder = PointBoxCoder("relu")
    boxes, quality = coder.decode(raw, priors), torch.randn(2, 30)
    predictions = Predictions(*(x.requires_grad_() for x in (logits, boxes, quality, raw)))
    return priors, gt, HardAssignment(index, ignore), predictions, coder


def criterion_of(coder, **changed):
    return LabelCriterion(num_classes=NUM_CLASSES, **{"box_coder": coder, "box_loss": partial(decoded_box_loss, loss=giou_loss)} | changed)


def run(scene, **changed):
    priors, gt, assignment, predictions, coder = scene
    return criterion_of(coder, **changed)(predictions, assignment, gt, priors)


def test_losses_equal_a_loop_over_positives(scene):
    priors, gt, assignment, predictions, _ = scene
    losses = run(scene, box_weight=2.0)
    one_hot = torch.zeros(2, 30, NUM_CLASSES)
    box = quality = total_weight = 0.0
    for image, prior in (assignment.gt_index >= 0).nonzero().tolist():
        obj = assignment.gt_index[image, prior]
        one_hot[image, prior, gt.classes[image, obj]] = 1
        target = gt.boxes[image, obj]
        weight = centerness_of(boxes_to_ltrb(target, priors.points[prior]))
        box += weight * fvcore_giou_loss(predictions.boxes[image, prior], target)
        probability = predictions.quality[image, prior].sigmoid()
        quality -= weight * probability.log() + (1 - weight) * (1 - probability).log()
        total_weight += weight
    cls = sigmoid_focal_loss(predictions.logits, one_hot, alpha=0.25, gamma=2)[~assignment.ignore].sum()
    assert_close(losses["loss_cls"], cls / 4)
    assert_close(losses["loss_box"], 2 * box / total_weight)
    assert_close(losses["loss_quality"], quality / 4)


def test_uniform_weighting_divides_by_the_number_of_positives(scene):
    priors, gt, assignment, predictions, _ = scene
    chosen = assignment.gt_index >= 0
    target = gt.boxes[0][assignment.gt_index[0][chosen[0]]]
    expected = fvcore_giou_loss(predictions.boxes[chosen], target, reduction="mean")
    assert_close(run(scene, location_weights=uniform_weights)["loss_box"], expected)


def test_moving_average_divides_all_terms_and_is_saved(scene):
    priors, gt, assignment, predictions, coder = scene
    criterion = criterion_of(coder, normalizer=MovingAverageNormalizer(), location_weights=uniform_weights)
    losses = criterion(predictions, assignment, gt, priors)
    assert_close(criterion.state_dict()["normalizer.average"], torch.tensor(0.9 * 300 + 0.1 * 4))
    for name, loss in run(scene, location_weights=uniform_weights).items():
        assert_close(losses[name] * 270.4, loss * 4)
    sum(losses.values()).backward()


@pytest.mark.parametrize(("normalizer", "denominator"), [(MovingClassNormalizer(), 0.9 * 100 + 0.1 * 4), (AllPriorsNormalizer(), 60.0)])
def test_some_normalizers_treat_the_classes_apart(scene, normalizer, denominator):
    plain, losses = run(scene), run(scene, normalizer=normalizer)
    assert_close(losses["loss_cls"] * denominator, plain["loss_cls"] * 4)
    assert_close([losses["loss_box"], losses["loss_quality"]], [plain["loss_box"], plain["loss_quality"]])


def test_positives_normalizer_by_hand():
    positive = torch.tensor([[True, True, True], [False, False, False]])
    weights = positive * 0.25
    assert_close(PositivesNormalizer()(positive, weights), (torch.tensor(3.0), torch.tensor(0.75), torch.tensor(3.0)))
    per_image = PositivesNormalizer(min_positives_per_image=1, min_box=1.0)
    assert_close(per_image(positive, weights), (torch.tensor(4.0), torch.tensor(1.0), torch.tensor(4.0)))
    assert_close(PositivesNormalizer()(positive & False, weights * 0)[0], torch.tensor(1.0))


@pytest.mark.parametrize("coder", [DeltaBoxCoder(), PointBoxCoder("exp"), PointBoxCoder("relu")], ids=["delta", "exp", "relu"])
def test_smooth_l1_compares_what_the_branch_gives(scene, coder):
    priors, gt, assignment, predictions, _ = scene
    criterion = criterion_of(
        coder, box_loss=partial(encoded_box_loss, loss=partial(F.smooth_l1_loss, reduction="none")), location_weights=uniform_weights
    )
    loss = criterion(predictions, assignment, gt, priors)["loss_box"]
    total, count = 0.0, 0
    for image, prior in (assignment.gt_index >= 0).nonzero().tolist():
        boxes = gt.boxes[image, assignment.gt_index[image, prior]].expand(30, 4)
        target = coder.encode(boxes, priors)[prior]
        count += 1
        if target.isfinite().all():
            total += F.smooth_l1_loss(predictions.raw_boxes[image, prior], target, reduction="sum")
    assert_close(loss, total / count)


def test_smooth_l1_leaves_out_what_the_coder_cannot_express(scene):
    priors, gt, assignment, predictions, _ = scene
    coder = PointBoxCoder("exp")
    index = assignment.gt_index.clone()
    index[0, 19] = 2  # the location (36, 28) and the object (1, 1, 9, 9)
    term = partial(encoded_box_loss, loss=partial(F.smooth_l1_loss, reduction="none"))
    criterion = criterion_of(coder, box_loss=term, location_weights=uniform_weights)
    loss = criterion(predictions, HardAssignment(index), gt, priors)["loss_box"]
    (gradient,) = torch.autograd.grad(loss, predictions.raw_boxes)
    assert gradient.isfinite().all() and (gradient[0, 19] == 0).all() and (gradient[0, 12] != 0).any()


def test_broken_outputs_of_negatives_do_not_poison_smooth_l1(scene):
    priors, gt, assignment, predictions, coder = scene
    raw = predictions.raw_boxes.detach().clone()
    raw[1] = float("inf")
    raw.requires_grad_()
    term = partial(encoded_box_loss, loss=partial(F.smooth_l1_loss, reduction="none"))
    broken = Predictions(predictions.logits, predictions.boxes, predictions.quality, raw)
    loss = criterion_of(coder, box_loss=term)(broken, assignment, gt, priors)["loss_box"]
    loss.backward()
    assert loss.isfinite() and raw.grad.isfinite().all() and (raw.grad[1] == 0).all() and (raw.grad[0] != 0).any()


def test_smooth_l1_asks_for_raw_outputs(scene):
    priors, gt, assignment, predictions, coder = scene
    criterion = criterion_of(coder, box_loss=partial(encoded_box_loss, loss=giou_loss))
    with pytest.raises(ValueError, match="raw_boxes"):
        criterion(Predictions(predictions.logits, predictions.boxes), assignment, gt, priors)


def test_quality_can_be_the_iou_of_the_prediction(scene):
    priors, gt, assignment, predictions, coder = scene
    loss = run(scene, quality_target=iou_quality)["loss_quality"]
    total = 0.0
    for image, prior in (assignment.gt_index >= 0).nonzero().tolist():
        target = gt.boxes[image, assignment.gt_index[image, prior]]
        iou = elementwise_iou(predictions.boxes[image, prior], target).detach()
        total += F.binary_cross_entropy_with_logits(predictions.quality[image, prior], iou, reduction="sum")
    assert_close(loss, total / 4)
    assert torch.autograd.grad(loss, predictions.boxes, allow_unused=True) == (None,)


def test_one_may_be_added_to_the_areas_of_the_iou(scene):
    """AdelaiDet: one unit of the coder, here a square of one stride."""
    priors, gt, assignment, predictions, _ = scene
    loss = run(scene, quality_target=partial(iou_quality, offset=1.0))["loss_quality"]
    total = 0.0
    for image, prior in (assignment.gt_index >= 0).nonzero().tolist():
        target = gt.boxes[image, assignment.gt_index[image, prior]]
        box, unit = predictions.boxes[image, prior].detach(), float(priors.strides[prior]) ** 2
        sides = (torch.minimum(box[2:], target[2:]) - torch.maximum(box[:2], target[:2])).clamp(min=0)
        shared, areas = sides.prod() / unit, ((box[2:] - box[:2]).prod() + (target[2:] - target[:2]).prod()) / unit
        iou = (shared + 1) / (areas - shared + 1)
        total += F.binary_cross_entropy_with_logits(predictions.quality[image, prior], iou, reduction="sum")
    assert_close(loss, total / 4)


def test_no_objects_at_all(scene):
    priors, _, _, predictions, coder = scene
    gt = GroundTruth(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool))
    nothing = HardAssignment(torch.full((2, 30), -1))
    losses = criterion_of(coder)(predictions, nothing, gt, priors)
    assert losses["loss_box"] == 0 and losses["loss_quality"] == 0 and losses["loss_cls"] > 0
    sum(losses.values()).backward()
    assert all(x.grad.isfinite().all() for x in (predictions.logits, predictions.boxes, predictions.quality))


def test_broken_boxes_of_negatives_do_not_poison_the_gradient(scene):
    priors, gt, assignment, predictions, coder = scene
    boxes = predictions.boxes.detach().clone()
    boxes[1] = float("inf")
    boxes.requires_grad_()
    loss = criterion_of(coder)(Predictions(predictions.logits, boxes, predictions.quality), assignment, gt, priors)["loss_box"]
    loss.backward()
    assert boxes.grad.isfinite().all() and (boxes.grad[1] == 0).all() and (boxes.grad[0] != 0).any()


def test_offset_loss_depends_on_the_unit(scene):
    box_loss = partial(decoded_box_loss, loss=partial(giou_loss, offset=1.0))
    pixels_and_strides = (PointBoxCoder("exp"), PointBoxCoder("relu"))
    values = [run(scene, box_coder=coder, box_loss=box_loss)["loss_box"] for coder in pixels_and_strides]
    assert (values[0] - values[1]).abs() > 0.01
