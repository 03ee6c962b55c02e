import pytest
import torch
from detectron2.structures import Boxes, pairwise_iou
from torch.testing import assert_close

from detkit.geometry import (
    DeltaBoxCoder,
    Grid,
    PointBoxCoder,
    Priors,
    box_centers,
    box_sizes,
    boxes_to_ltrb,
    centerness_of,
    elementwise_iou,
    ltrb_to_boxes,
    square_anchors,
)

CPU = torch.device("cpu")


def make_priors(*, offset=0.5, plus_one=0.0, scales=(8.0,), ratios=(1.0,)):
    grid = Grid(((4, 5), (2, 3)), (8, 16), offset, CPU)
    return Priors(grid, square_anchors((8, 16), scales, ratios, plus_one), plus_one)


def test_points_are_ordered_by_level_row_column():
    points = make_priors().grid.points
    assert points.shape == (26, 2)
    assert points[1].tolist() == [12.0, 4.0]
    assert points[5].tolist() == [4.0, 12.0]
    assert points[20].tolist() == [8.0, 8.0]


def test_offset_zero_puts_points_on_multiples_of_the_stride():
    assert make_priors(offset=0.0).grid.points[6].tolist() == [8.0, 8.0]


def test_every_prior_has_its_location_and_stride():
    priors = make_priors(scales=(4.0, 8.0), ratios=(0.5, 1.0, 2.0))
    assert priors.boxes.shape == (26 * 6, 4)
    centers = (priors.boxes[:, :2] + priors.boxes[:, 2:]) / 2
    assert_close(centers, priors.points)
    areas = (priors.boxes[:, 2:] - priors.boxes[:, :2]).prod(1).view(26, 6)
    expected = torch.tensor([4.0] * 3 + [8.0] * 3)[None] * priors.strides.view(26, 6)
    assert_close(areas.sqrt(), expected)


@pytest.mark.parametrize("ratios", [(1.0,), (0.5, 1.0, 2.0)])
def test_the_level_of_every_prior(ratios):
    priors = make_priors(ratios=ratios)
    levels = priors.levels_of(torch.arange(priors.num_priors))
    assert levels.tolist() == [0] * 20 * len(ratios) + [1] * 6 * len(ratios)
    assert priors.per_level == (20 * len(ratios), 6 * len(ratios))


@pytest.mark.parametrize(
    "size, divisor, cells",
    [
        ((32, 40), 0, [[4, 5], [2, 3]]),
        ((17, 9), 1, [[3, 2], [2, 1]]),  # begun cells belong to the image
        ((16, 8), 1, [[2, 1], [1, 1]]),
        ((17, 9), 16, [[4, 2], [2, 1]]),  # padded to 32 x 16
        ((1, 1), 32, [[4, 4], [2, 2]]),
        ((500, 500), 32, [[4, 5], [2, 3]]),  # no more than there are
    ],
)
def test_cells_of_an_image_padded_for_itself(size, divisor, cells):
    found = make_priors().grid.cells_within([size, (32, 40)], divisor)
    assert found.tolist() == [cells, [[4, 5], [2, 3]]]


def test_legacy_anchors_of_other_ratios():
    """Height over width, both with the inclusive pixel."""
    boxes = make_priors(plus_one=1.0, ratios=(0.25, 4.0)).boxes[:2]
    assert_close(boxes[:, 2:] - boxes[:, :2] + 1, torch.tensor([[128.0, 32.0], [32.0, 128.0]]))


def test_legacy_anchor_has_its_nominal_size_in_inclusive_pixels():
    box = make_priors(plus_one=1.0).boxes[0]
    assert (box[2] - box[0] + 1).item() == 64.0


@pytest.mark.parametrize(
    "coder", [PointBoxCoder("exp"), PointBoxCoder("relu"), PointBoxCoder("exp_stride"), PointBoxCoder("linear"), DeltaBoxCoder()]
)
@pytest.mark.parametrize("plus_one", [0.0, 1.0])
def test_decode_inverts_encode(coder, plus_one):
    priors = make_priors(plus_one=plus_one)
    distances = torch.rand(2, priors.num_priors, 4) * 30 + 1
    boxes = ltrb_to_boxes(distances, priors.points)
    assert_close(coder.decode(coder.encode(boxes, priors), priors), boxes, rtol=1e-5, atol=1e-3)


def test_delta_coder_agrees_with_detectron2():
    from detectron2.modeling.box_regression import Box2BoxTransform

    priors, raw = make_priors(), torch.randn(26, 4) * 3
    theirs = Box2BoxTransform(weights=(10, 10, 5, 5)).apply_deltas(raw, priors.boxes)
    assert_close(DeltaBoxCoder().decode(raw, priors), theirs, rtol=1e-5, atol=1e-3)


def test_delta_coder_clamps_log_sizes():
    priors = make_priors()
    raw = torch.full((26, 4), 100.0)
    sides = DeltaBoxCoder().decode(raw, priors)
    assert_close((sides[:, 2] - sides[:, 0]) / (8 * priors.strides), torch.full((26,), 1000 / 16))
    below = DeltaBoxCoder(clamp_below=True).decode(-raw, priors)
    assert_close((below[:, 2] - below[:, 0]) / (8 * priors.strides), torch.full((26,), 16 / 1000), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("form", ["exp", "exp_stride"])
def test_a_location_that_explodes_spoils_no_gradient(form):
    """Losses take the boxes of positives alone; the others have a gradient of zero, not of zero times infinity."""
    priors = make_priors()
    raw = torch.zeros(priors.num_priors, 4)
    raw[0] = 200.0
    raw.requires_grad_()
    PointBoxCoder(form).decode(raw, priors)[1:].sum().backward()
    assert raw.grad.isfinite().all()
    assert (raw.grad[0] == 0).all()
    assert (raw.grad[1:] != 0).all()


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match="not 'log'"):
        PointBoxCoder("log")


def test_linear_distances_reach_boxes_beside_their_location():
    priors = Priors(Grid(((2, 3),), (8,), 0.5, torch.device("cpu")), square_anchors([8]))
    boxes = torch.tensor([[100.0, 50, 120, 90]]).expand(6, 4)
    coder = PointBoxCoder("linear")
    raw = coder.encode(boxes, priors)
    assert (raw < 0).any()
    assert_close(coder.decode(raw, priors), boxes)


def test_elementwise_iou_is_the_diagonal_of_the_pairwise():
    corners = torch.rand(50, 2, 2) * 20
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    other = boxes.flip(0)
    assert_close(elementwise_iou(boxes, other), pairwise_iou(Boxes(boxes), Boxes(other)).diagonal())


def test_iou_of_empty_boxes_is_zero_and_plus_one_counts_pixels():
    point = torch.tensor([3.0, 3.0, 3.0, 3.0])
    assert elementwise_iou(point, point).item() == 0.0
    assert elementwise_iou(point, point, plus_one=1.0).item() == 1.0
    assert_close(elementwise_iou(torch.tensor([0.0, 0, 9, 9]), torch.tensor([5.0, 0, 14, 9]), plus_one=1.0), torch.tensor(50 / 150))


def test_centerness_follows_equation_3():
    box, points = torch.tensor([0.0, 0, 10, 20]), torch.tensor([[5.0, 10], [2, 10], [2, 5], [10, 10], [11, 10], [-1, -1]])
    expected = torch.tensor([1.0, (2 / 8) ** 0.5, (2 / 8 * 5 / 15) ** 0.5, 0.0, 0.0, 0.0])
    assert_close(centerness_of(boxes_to_ltrb(box.expand(6, 4), points)), expected)


def test_a_point_has_no_centerness_in_a_box_without_extent():
    assert_close(centerness_of(torch.zeros(2, 4)), torch.zeros(2))


@pytest.mark.parametrize("form, unit", [("exp", [1.0, 1.0]), ("relu", [8.0, 16.0]), ("exp_stride", [8.0, 16.0]), ("linear", [8.0, 16.0])])
def test_what_a_raw_distance_of_one_means(form, unit):
    priors = make_priors()
    coder, raw = PointBoxCoder(form), torch.full((26, 4), 1.0)
    side = {"exp": torch.e, "exp_stride": torch.e}.get(form, 1.0)
    sides = (coder.decode(raw, priors)[:, 2] - priors.points[:, 0])[[0, 25]]
    assert_close(sides, side * torch.tensor(unit))
    assert_close(coder.iou_unit(priors)[[0, 25]], torch.tensor(unit))


def test_centers_and_sizes_of_boxes():
    boxes = torch.tensor([[[1.0, 2.0, 5.0, 10.0]], [[-4.0, 0.0, -4.0, 3.0]]])
    assert_close(box_centers(boxes), torch.tensor([[[3.0, 6.0]], [[-4.0, 1.5]]]))
    assert_close(box_sizes(boxes), torch.tensor([[[4.0, 8.0]], [[0.0, 3.0]]]))


def shapes_of(anchors):
    """Widths and heights of a level's anchors."""
    return [[round(side, 2) for side in sizes] for sizes in box_sizes(anchors).tolist()]


def test_order_of_several_anchors():
    """All ratios of a scale first, or all scales of a ratio: mmdetection's and torchvision's weights count them so."""
    by_scale, by_ratio = ([[8, 8], [4, 16], [16, 16], [8, 32]], [[8, 8], [16, 16], [4, 16], [8, 32]])
    assert shapes_of(square_anchors([4], (2.0, 4.0), (1.0, 4.0))[0]) == by_scale
    assert shapes_of(square_anchors([4], (2.0, 4.0), (1.0, 4.0), ratios_first=True)[0]) == by_ratio


def test_anchors_of_whole_pixels():
    """The sizes of torchvision's RetinaNet: 32 and int(32 * 2^(1/3)) = 40 pixels on P3, corners rounded."""
    anchors = square_anchors([8], (4.0, 5.039684), (0.5, 1.0), ratios_first=True, whole_pixels=True)[0]
    assert shapes_of(anchors) == [[46, 22], [56, 28], [32, 32], [40, 40]]
