import pytest
import torch
from torch.testing import assert_close

from detkit.dense.heads import TOODHead, aligned_logits
from detkit.dense.heads.tood_head import TaskDecomposition
from detkit.geometry import Grid, PointBoxCoder, Priors, square_anchors
from detkit.layers import Tower


def tower(**changed):
    return Tower(**{"channels": 32, "num_convs": 2, "bias": False, "offset_groups": 4} | changed)


def make_head(**changed):
    arguments = {"in_channels": 32, "num_classes": 3, "num_levels": 2, "tower": tower()} | changed
    torch.manual_seed(0)
    return TOODHead(**arguments)


def features(batch=2):
    torch.manual_seed(1)
    return [torch.randn(batch, 32, 4, 5), torch.randn(batch, 32, 2, 3)]


def test_aligned_logits_are_those_of_the_geometric_mean():
    a, b = torch.linspace(-12, 12, 25)[:, None], torch.linspace(-12, 12, 25)
    probability = (a.double().sigmoid() * b.double().sigmoid()).sqrt()
    assert_close(aligned_logits(a.expand(25, 25), b).sigmoid(), probability.float(), rtol=1e-5, atol=1e-7)


def test_aligned_logits_and_their_gradients_are_finite_everywhere():
    a = torch.tensor([-200.0, -30.0, 0.0, 30.0, 200.0], requires_grad=True)
    logits = aligned_logits(a, a)
    logits.sum().backward()
    assert logits.isfinite().all() and a.grad.isfinite().all()


def test_decomposition_weighs_the_layers_before_the_reduction():
    """Equations 2 to 4 as they stand: attention times layer, then the convolution."""
    torch.manual_seed(0)
    part = TaskDecomposition(num_layers=3, channels=32)
    layers = torch.randn(2, 96, 4, 5)
    pooled = layers.mean((2, 3), keepdim=True)
    weighed = layers * part.attention(pooled).repeat_interleave(32, dim=1)
    assert_close(part(layers, pooled), part.reduction(weighed).relu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changed", [{}, {"coarse_box": "anchor"}, {"tower": tower(deformable=[0])}, {"tower": tower(norm="", bias=True)}])
def test_step_reaches_every_parameter(changed):
    head = make_head(**changed)
    outputs = head(features())
    assert outputs.quality is None and outputs.level_sizes == ((4, 5), (2, 3))
    assert outputs.logits[0].shape == (2, 3, 4, 5) and outputs.boxes[0].shape == (2, 4, 4, 5)
    (sum(x.sum() for x in outputs.logits) + sum(x.square().sum() for x in outputs.boxes)).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("coarse_box", ["point", "anchor"])
def test_boxes_before_training(coarse_box):
    """Distances of one stride, or the anchor itself, decoded by the linear coder: offsets start near zero."""
    head = make_head(coarse_box=coarse_box, anchor_scale=4.0)
    for module in (head.box_pred, head.offset_pred[-1]):
        torch.nn.init.zeros_(module.weight)
    outputs = head(features(1))
    grid = Grid(outputs.level_sizes, (8, 16), 0.5, torch.device("cpu"))
    boxes = PointBoxCoder("linear").decode(outputs.flatten(3)[1], Priors(grid, square_anchors((8, 16), (4.0,))))[0]
    half = grid.point_strides[:, None] * (1.0 if coarse_box == "point" else 2.0)
    assert_close(boxes, torch.cat([grid.points - half, grid.points + half], dim=1))


def test_a_side_is_read_at_its_offset_and_invalid_boxes_stay_coarse():
    head = make_head()
    raw = torch.zeros(1, 4, 3, 4)
    offsets = torch.zeros(1, 8, 3, 4)
    offsets[0, 1, 1, 1] = 1.0  # the left side one cell to the right: 0 <= right side
    offsets[0, 1, 1, 2] = 9.0  # outside: position 0, still left of the right side
    offsets[0, 4, 0, 0], offsets[0, 5, 0, 0] = 0.0, -1.0  # the right side outside: 0 < the left side at -0.5 is false
    offsets[0, 5, 2, 2] = -3.0  # the right side at position 0, left of the left side: invalid
    distances = head._aligned_distances(raw, head.scales[0], offsets)
    assert_close(distances[0, :, 1, 1], torch.tensor([0.0, 1.0, 1.0, 1.0]))
    assert_close(distances[0, :, 1, 2], torch.tensor([2.5, 1.0, 1.0, 1.0]))
    assert_close(distances[0, :, 0, 0], torch.tensor([1.0, 1.0, -0.5, 1.0]))
    assert_close(distances[0, :, 2, 2], torch.ones(4))


def test_initial_probability_of_both_factors():
    probability = make_head(prior_prob=0.02)(features())
    assert_close(probability.logits[0].sigmoid().mean(), torch.tensor(0.02), rtol=0.1, atol=0)


def test_bad_arguments():
    for changed, words in (
        ({"num_anchors": 3}, "not 3"),
        ({"tower": tower(num_convs=0)}, "one convolution at least"),
        ({"coarse_box": "box"}, "not 'box'"),
    ):
        with pytest.raises(ValueError, match=words):
            make_head(**changed)
