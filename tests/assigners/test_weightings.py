"""The weightings beside DW: each rule against plain loops, and what holds for all of them."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from detkit.assigners import (
    AssignContext,
    AutoAssignAssigner,
    BagAssignment,
    FoveaBoxAssigner,
    GFLAssigner,
    OTAAssigner,
    PAAAssigner,
    SimOTAAssigner,
    TaskAlignedAssigner,
    VFLAssigner,
    build_assigner,
)
from detkit.assigners.autoassign import center_loss, negative_weight
from detkit.assigners.candidates import points_inside
from detkit.assigners.ota import transport_plan
from detkit.assigners.paa import low_cost_component
from detkit.config import get_cfg
from detkit.geometry import Grid, Priors, elementwise_iou, square_anchors
from detkit.structures import Predictions
from tests.toys.scenes import NUM_CLASSES, STRIDES, dense_scores, make_context, make_gt, without_losers

WEIGHTINGS = ["DWAssigner", "GFLAssigner", "VFLAssigner", "TaskAlignedAssigner", "MuSuAssigner", "AutoAssignAssigner"]
LABELS = ["PAAAssigner", "OTAAssigner", "SimOTAAssigner", "FoveaBoxAssigner"]


def build(name):
    cfg = get_cfg()
    cfg.MODEL.ASSIGNERS.FOVEABOX.SIZES = [32, 64, 128]
    return build_assigner(name, cfg, key="MODEL.DW.ASSIGNER", num_classes=NUM_CLASSES)


def bags(context):
    """Per object of the batch (flat index): its candidates as (flat prior, score, IoU)."""
    pairs = points_inside(context)
    values = pairs.look_up(context.predictions, context.gt)
    iou = elementwise_iou(values.boxes, values.gt_boxes)
    result = {}
    for row in zip(pairs.gt_index.tolist(), pairs.prior_index.tolist(), values.score.tolist(), iou.tolist(), strict=True):
        result.setdefault(row[0], []).append(row[1:])
    return result


def as_labels(winners, context):
    """(B, P) from {flat prior: flat object}."""
    expected = torch.full((context.gt.valid.shape[0], context.priors.num_priors), -1)
    for prior, gt_index in winners.items():
        expected[prior // context.priors.num_priors, prior % context.priors.num_priors] = gt_index % context.gt.valid.shape[1]
    return expected


def test_task_aligned_against_loops():
    context = make_context()
    wishes = {}
    for gt_index, bag in bags(context).items():
        for prior, score, iou in sorted(bag, key=lambda row: -row[1] * row[2] ** 6)[:13]:
            wishes.setdefault(prior, []).append((iou, -gt_index, score * iou**6))
    winners = {prior: max(wanted) for prior, wanted in wishes.items()}
    result = without_losers(TaskAlignedAssigner()(context))
    assert dict(zip(result.pairs.prior_index.tolist(), result.pairs.gt_index.tolist(), strict=True)) == {
        prior: -negative for prior, (_, negative, _) in winners.items()
    }
    assert len(winners) < sum(map(len, wishes.values()))
    targets = result.box_weight / 2
    for prior, gt_index, target in zip(result.pairs.prior_index.tolist(), result.pairs.gt_index.tolist(), targets.tolist(), strict=True):
        mine = [(iou, metric) for iou, negative, metric in winners.values() if -negative == gt_index]
        expected = winners[prior][2] / max(metric for _, metric in mine) * max(iou for iou, _ in mine)
        assert math.isclose(target, expected, rel_tol=1e-4)
    distance = (result.values.score - targets).square()
    assert_close(result.positive_weight, targets * distance)
    assert_close(result.negative_weight, (1 - targets) * distance)


def test_simota_against_loops():
    context = make_context()
    scores = dense_scores(context.predictions).flatten(0, 1).detach()
    winners = {}
    for gt_index, bag in bags(context).items():
        box, label = context.gt.boxes.flatten(0, 1)[gt_index], int(context.gt.classes.flatten()[gt_index])
        costs = []
        for prior, _, iou in bag:
            one_hot = torch.nn.functional.one_hot(torch.tensor(label), NUM_CLASSES).float()
            cost = torch.nn.functional.binary_cross_entropy(scores[prior].sqrt(), one_hot, reduction="sum").item()
            point, stride = context.priors.points[prior % 252], context.priors.strides[prior % 252]
            off_center = ((point - (box[:2] + box[2:]) / 2).abs() / stride).max() >= 2.5
            costs.append((cost - 3 * math.log(max(iou, 1e-8)) + 1e5 * bool(off_center), prior))
        count = max(int(sum(sorted((iou for _, _, iou in bag), reverse=True)[:10])), 1)
        for cost, prior in sorted(costs)[:count]:
            winners[prior] = min(winners.get(prior, (math.inf, 0)), (cost, gt_index))
    expected = as_labels({prior: gt_index for prior, (_, gt_index) in winners.items()}, context)
    assert SimOTAAssigner()(context).gt_index.equal(expected)


def test_foveabox_against_loops():
    context = make_context()
    winners = {}
    for image in range(3):
        for index in range(4):
            if not context.gt.valid[image, index]:
                continue
            x0, y0, x1, y1 = context.gt.boxes[image, index].tolist()
            side = math.sqrt((x1 - x0) * (y1 - y0))
            for prior in range(252):
                (x, y), size = context.priors.points[prior].tolist(), 4 * context.priors.strides[prior].item()
                central = abs(x - (x0 + x1) / 2) < 0.2 * (x1 - x0) and abs(y - (y0 + y1) / 2) < 0.2 * (y1 - y0)
                if central and size / 2 <= side <= size * 2:
                    key = image * 252 + prior
                    winners[key] = min(winners.get(key, (math.inf, 0)), ((x1 - x0) * (y1 - y0), image * 4 + index))
    assert len(winners) > 5
    expected = as_labels({prior: gt_index for prior, (_, gt_index) in winners.items()}, context)
    assert FoveaBoxAssigner(sizes=(32, 64, 128))(context).gt_index.equal(expected)


def test_the_mixture_of_paa_separates_two_groups_up_to_the_densest_point():
    low, high = [0.1, 0.5, 0.55, 0.6, 1.1], [4.0, 4.2, 4.3]
    cost = torch.tensor([low + high, [0.2] + [math.inf] * 7, [math.inf] * 8, [0.3, 2.9] + [math.inf] * 6])
    positive = low_cost_component(cost)
    assert positive[0].nonzero().flatten().tolist() == [0, 1, 2]  # the density is highest in the middle of the five
    assert positive[1].nonzero().flatten().tolist() == [0] and not positive[2].any()
    assert positive[3].nonzero().flatten().tolist() == [0]


def test_the_mixture_of_paa_is_fitted_like_a_loop_does():
    rng = np.random.default_rng(0)
    x = np.sort(np.concatenate([rng.normal(1, 0.4, 12), rng.normal(2.4, 0.3, 9)]))
    means, variances, shares = np.array([x[0], x[-1]]), np.ones(2), np.full(2, 0.5)

    def densities():
        return np.array(
            [[p * math.exp(-((v - m) ** 2) / (2 * s)) / math.sqrt(s) for m, s, p in zip(means, variances, shares, strict=True)] for v in x]
        )

    for _ in range(20):
        memberships = densities() / densities().sum(1, keepdims=True)
        means = (memberships * x[:, None]).sum(0) / memberships.sum(0)
        variances = (memberships * (x[:, None] - means) ** 2).sum(0) / memberships.sum(0) + 1e-6
        shares = memberships.sum(0) / len(x)
    low = densities()[:, 0] >= densities()[:, 1]
    peak = max((density, i) for i, density in enumerate(densities().sum(1)) if low[i])[1]
    expected = [bool(low[i]) and i <= peak for i in range(len(x))]
    assert low_cost_component(torch.tensor(x)[None])[0].tolist() == expected


def test_paa_positives_are_the_cheap_candidates_of_each_object():
    context = make_context()
    labels = PAAAssigner()(context).gt_index.flatten()
    inside = {(prior, gt_index) for gt_index, bag in bags(context).items() for prior, _, _ in bag}
    chosen = [(prior, prior // 252 * 4 + int(labels[prior])) for prior in (labels >= 0).nonzero().flatten().tolist()]
    assert set(chosen) <= inside
    assert {gt_index for _, gt_index in chosen} >= {0, 8}


def test_the_transport_plan_is_that_of_dense_sinkhorn():
    torch.manual_seed(0)
    exists = torch.rand(3, 9) > 0.3
    exists[:, 0] = True
    cost = 3 * torch.rand(3, 9, dtype=torch.float64)
    supply = torch.tensor([2, 1, 3])
    gt_index, candidate = exists.nonzero(as_tuple=True)
    plan = transport_plan(cost[exists], candidate, gt_index, supply, torch.zeros(9, dtype=torch.int64), 1, 0.1, 300)
    kernel = torch.cat([torch.where(exists, (-cost / 0.1).exp(), 0.0), torch.ones(1, 9, dtype=torch.float64)])
    rows, columns = torch.tensor([2.0, 1, 3, 3], dtype=torch.float64), torch.ones(9, dtype=torch.float64)
    u = torch.ones(4, dtype=torch.float64)
    for _ in range(300):
        v = columns / (kernel.T @ u)
        u = rows / (kernel @ v)
    dense = u[:, None] * kernel * v
    assert_close(plan.objects.exp(), dense[:3][exists])
    assert_close(plan.background.exp(), dense[3])


def test_ota_gives_each_object_about_its_supply_of_good_locations():
    context = make_context()
    labels = OTAAssigner()(context).gt_index.flatten()
    for gt_index, bag in bags(context).items():
        mine = [(prior, iou) for prior, _, iou in bag if int(labels[prior]) == gt_index % 4]
        supply = max(int(sum(sorted((iou for _, _, iou in bag), reverse=True)[:20])), 1)
        assert 0.3 * supply <= len(mine) <= 1.5 * supply + 1
        assert np.mean([iou for _, iou in mine]) > np.mean([iou for _, _, iou in bag])


def test_negative_weights_of_autoassign_fall_with_the_iou():
    iou, gt_index = torch.tensor([0.9, 0.0, 0.5, 0.6, 0.6]), torch.tensor([0, 0, 0, 1, 1])
    assert_close(negative_weight(iou, gt_index, 2), torch.tensor([0, 1, 1 - (2 - 1) / (10 - 1), 0, 0]), atol=1e-5, rtol=0)


def test_the_center_loss_of_autoassign_is_objects_by_priors():
    valid = torch.tensor([[True, True], [False, False], [True, False]])
    prior, gt_index = torch.tensor([0.5, 0.25, 0.125]), torch.tensor([0, 0, 1])
    assert_close(center_loss(prior, gt_index, valid), torch.tensor(2 / 0.875 / 3))


def test_only_learned_weights_carry_gradient():
    context = make_context()
    learned = AutoAssignAssigner(num_classes=NUM_CLASSES)
    assert learned(context).positive_weight.requires_grad and not learned(context).negative_weight.requires_grad
    (learned(context).positive_weight.square().sum()).backward()
    assert learned.center_prior.mean.grad.abs().sum() > 0 and context.predictions.logits.grad.abs().sum() > 0
    for weights in ("detached", "on_loss"):
        other = AutoAssignAssigner(num_classes=NUM_CLASSES, weights=weights)
        assert not list(other.parameters()) and not other(context).positive_weight.requires_grad


def test_soft_targets_stand_on_hard_labels():
    for wrapper in (GFLAssigner, VFLAssigner):
        with pytest.raises(ValueError, match=r"base must be an assigner of hard labels, not TaskAlignedAssigner"):
            wrapper(base=TaskAlignedAssigner())


@pytest.mark.parametrize("name", [*WEIGHTINGS, *LABELS])
def test_by_name_with_and_without_objects(name):
    assigner = build(name)
    assert assigner.gives_weights == (name in WEIGHTINGS)
    for objects in ([([], [])], [([], []), ([], [])], [([[41, 41, 43, 43]], [1])]):
        result = assigner(make_context(objects))
        if name not in ("GFLAssigner", "VFLAssigner"):  # ATSS gives the tiny object an anchor
            empty = len(result.pairs.gt_index) == 0 if name in WEIGHTINGS else (result.gt_index == -1).all()
            assert empty, f"{name} found candidates where there are none"
    result = assigner(make_context())
    if name in LABELS:
        assert (result.gt_index[0] >= 0).any() and (result.gt_index[1] == -1).all() and (result.gt_index[2] == 0).any()
    else:
        assert result.positive_weight.isfinite().all() and (result.positive_weight > 0).any()
        assert result.negative_weight.min() >= 0
        assert isinstance(result, BagAssignment) or result.box_weight.min() >= 0
        assert not result.pairs.gt_index.eq(4).any()


@pytest.mark.parametrize("name", [*WEIGHTINGS, *LABELS])
def test_locations_beyond_an_image_take_no_part(name):
    context = make_context()
    sizes = torch.tensor([[6, 16], [3, 8], [2, 4]]).expand(3, -1, -1)  # the upper half of each level, rounded up
    result = build(name)(AssignContext(context.gt, context.priors, context.predictions, valid_sizes=sizes))
    beyond = torch.cat([torch.arange(96 // s).repeat_interleave(128 // s) >= h for s, h in zip(STRIDES, (6, 3, 2), strict=True)])
    assert result.ignore[:, beyond].all() and not result.ignore[:, ~beyond].any()
    chosen = result.pairs.prior_index % 252 if name in WEIGHTINGS else (result.gt_index >= 0).nonzero()[:, 1]
    assert not beyond[chosen].any()


class Largest(TorchDispatchMode):
    """Remembers the elements of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("name", [*WEIGHTINGS, *LABELS])
def test_memory_grows_with_the_candidates(name):
    """200 objects of 12 pixels on 5292 locations: no tensor comes near objects times locations."""
    torch.manual_seed(0)
    grid = Grid(((48, 84), (24, 42), (12, 21)), STRIDES, 0.5, torch.device("cpu"))
    priors = Priors(grid, square_anchors(STRIDES))
    corners = torch.rand(200, 2) * torch.tensor([650.0, 370.0])
    gt = make_gt([(torch.cat([corners, corners + 12], dim=1).tolist(), [0] * 200)])
    logits, quality = torch.randn(1, priors.num_priors, NUM_CLASSES), torch.randn(1, priors.num_priors)
    context = AssignContext(gt, priors, Predictions(logits, priors.boxes[None], quality))
    with Largest() as largest:
        build(name)(context)
    assert largest.numel < 0.15 * gt.valid.numel() * priors.num_priors
