import pytest
import torch
from torch.testing import assert_close

from detkit.layers import Tower, sample_channels
from dw import RefiningHead, refine_distances


def smooth_boxes(size=(6, 7), box=(1.0, 0.5, 5.0, 4.5)):
    """Signed distances (1, 4, H, W) of all locations to the sides of one box, in strides."""
    ys, xs = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    x0, y0, x1, y1 = box
    return torch.stack([xs - x0, ys - y0, x1 - xs, y1 - ys])[None]


def bilinear(plane, y, x):
    """Value of a map at a position, zero outside: the definition, written out."""
    total = 0.0
    for row in (int(y // 1), int(y // 1) + 1):
        for column in (int(x // 1), int(x // 1) + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * float(plane[row, column])
    return total


def test_each_channel_is_read_at_a_place_of_its_own():
    torch.manual_seed(0)
    maps, offsets = torch.randn(1, 2, 3, 4), torch.randn(1, 4, 3, 4)
    out = sample_channels(maps, offsets)
    for c in range(2):
        for row in range(3):
            for column in range(4):
                dy, dx = offsets[0, 2 * c, row, column].item(), offsets[0, 2 * c + 1, row, column].item()
                assert float(out[0, c, row, column]) == pytest.approx(bilinear(maps[0, c], row + dy, column + dx), abs=1e-5)


def test_points_that_agree_on_a_box_leave_it_as_it_is():
    """Where the boundary points predict the same box, so does the refined one: equation 10 with both distances."""
    ltrb = smooth_boxes()
    refined = refine_distances(ltrb, torch.zeros(1, 8, 6, 7))
    assert_close(refined[..., 2, 3], ltrb[..., 2, 3])


def test_a_refined_side_is_the_one_that_the_boundary_point_predicts():
    """Equations 9 and 10 by hand for one location: the left boundary point moves one row down and half a column to the right."""
    torch.manual_seed(0)
    ltrb = 0.5 + torch.rand(1, 4, 6, 7)
    row, column = 3, 4
    offsets = torch.zeros(1, 8, 6, 7)
    offsets[0, 0, row, column], offsets[0, 1, row, column] = 1.0, 0.5
    y, x = row + 1.0, column - float(ltrb[0, 0, row, column]) + 0.5
    left_of_all = torch.arange(7) + 0.5 - ltrb[0, 0]  # position of the left side that each location predicts
    expected = column + 0.5 - bilinear(left_of_all, y, x)
    assert float(refine_distances(ltrb, offsets)[0, 0, row, column]) == pytest.approx(expected, abs=1e-5)


def test_a_boundary_point_outside_the_map_reads_position_zero():
    ltrb = torch.full((1, 4, 2, 2), 9.0)
    refined = refine_distances(ltrb, torch.zeros(1, 8, 2, 2))
    assert_close(refined[0, :, 0, 1], torch.tensor([1.5, 0.5, -1.5, -0.5]))


def make_head(**changed):
    torch.manual_seed(0)
    arguments = {"in_channels": 32, "num_classes": 3, "num_levels": 2, "tower": Tower(channels=32, num_convs=1), "box_bias": 1.0}
    head = RefiningHead(**(arguments | changed))
    torch.nn.init.zeros_(head.offset_pred.weight)  # so that boundary points lie on the sides at first
    return head


def test_head_starts_at_the_sides_and_learns_to_move():
    head = make_head()
    features = [torch.randn(2, 32, 4, 5), torch.randn(2, 32, 2, 3)]
    outputs = head(features)
    coarse = head.scales[0](head.box_pred(head.box_tower(features[0]))).relu()
    assert_close(outputs.boxes[0], refine_distances(coarse, torch.zeros(2, 8, 4, 5)))
    sum(x.square().sum() for x in outputs.boxes).backward()
    assert head.offset_pred.weight.grad.abs().max() > 0 and head.box_pred.weight.grad.abs().max() > 0


@pytest.mark.parametrize("grid_offset", [0.0, 0.25])
def test_the_place_of_a_location_in_its_cell_counts_at_the_border(grid_offset):
    head = make_head(grid_offset=grid_offset, box_bias=3.0)
    feature = torch.randn(2, 32, 4, 5)
    coarse = head.scales[0](head.box_pred(head.box_tower(feature))).relu()
    refined = head([feature, torch.randn(2, 32, 2, 3)]).boxes[0]
    assert_close(refined, refine_distances(coarse, torch.zeros(2, 8, 4, 5), grid_offset=grid_offset))
    assert not torch.allclose(refined, refine_distances(coarse, torch.zeros(2, 8, 4, 5), grid_offset=0.5))


def test_coarse_distances_are_not_negative():
    """Where the branch gives less than nothing, the boundary points are those of a box without extent."""
    head = make_head(box_bias=-2.0)
    outputs = head([torch.randn(2, 32, 4, 5), torch.randn(2, 32, 2, 3)])
    assert_close(outputs.boxes[0], torch.zeros(2, 4, 4, 5))


def test_refines_in_float32_under_autocast():
    head = make_head()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = head([torch.randn(1, 32, 4, 5), torch.randn(1, 32, 2, 3)])
    assert outputs.boxes[0].dtype == torch.float32 and outputs.boxes[0].isfinite().all()


def test_one_anchor_only():
    with pytest.raises(ValueError, match="one box per location, not 2"):
        make_head(num_anchors=2)
