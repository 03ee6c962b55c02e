import pytest
import torch
from torch.testing import assert_close

from detkit.dense.heads import DenseHead
from detkit.layers import DeformConv2dPack, Tower


def make_head(**changed):
    arguments = {"in_channels": 32, "num_classes": 3, "num_levels": 2, "tower": Tower(channels=32, num_convs=1)} | changed
    torch.manual_seed(0)
    return DenseHead(**arguments)


def features():
    torch.manual_seed(1)
    return [torch.randn(2, 32, 4, 5), torch.randn(2, 32, 2, 3)]


def test_shapes_and_flat_order():
    outputs = make_head(num_anchors=2)(features())
    logits, boxes, quality = outputs.flatten(3)
    assert logits.shape == (2, (20 + 6) * 2, 3) and boxes.shape == (2, 52, 4) and quality.shape == (2, 52)
    assert outputs.level_sizes == ((4, 5), (2, 3))
    row, col, anchor = 2, 3, 1
    assert_close(logits[1, (row * 5 + col) * 2 + anchor], outputs.logits[0][1, 3:, row, col])
    assert_close(boxes[0, 40 + (1 * 3 + 2) * 2], outputs.boxes[1][0, :4, 1, 2])


@pytest.mark.parametrize("quality,tower", [("cls", "cls_tower"), ("box", "box_tower")])
def test_quality_sits_on_the_named_branch(quality, tower):
    head = make_head(quality=quality)
    sum(x.sum() for x in head(features()).quality).backward()
    reached = {name.split(".")[0] for name, p in head.named_parameters() if p.grad is not None}
    assert reached == {tower, "quality"}


def test_without_quality_and_with_an_unknown_one():
    assert make_head(quality="none")(features()).quality is None
    with pytest.raises(ValueError, match="'iou'"):
        make_head(quality="iou")


def test_initial_probability_is_the_prior():
    probabilities = make_head(prior_prob=0.02)(features()).logits[0].sigmoid()
    assert_close(probabilities.mean(), torch.tensor(0.02), rtol=0.1, atol=0)


def test_scales_act_per_level_and_can_be_left_out():
    head, plain = make_head(), make_head(scales=False)
    assert not any("scale" in name for name, _ in plain.named_parameters())
    before = [x.clone() for x in head(features()).boxes]
    with torch.no_grad():
        head.scales[1].scale.mul_(3)
    after = head(features()).boxes
    assert_close(after[0], before[0])
    assert_close(after[1], before[1] * 3)


def test_the_last_convolution_of_both_towers_can_be_deformable():
    head = make_head(tower=Tower(channels=32, num_convs=3, deformable=[2]))
    for tower in (head.cls_tower, head.box_tower):
        assert [isinstance(layer, DeformConv2dPack) for layer in tower] == [False, False, True]
        assert tower[2].modulated and tower[2].conv_offset.out_channels == 27
    outputs = head(features())
    sum(x.sum() for x in (*outputs.logits, *outputs.boxes)).backward()
    assert all(tower[2].conv_offset.weight.grad.any() for tower in (head.cls_tower, head.box_tower))


def test_tower_switches():
    names = {name for name, _ in make_head(tower=Tower(channels=32, num_convs=1, norm="", bias=False)).named_parameters()}
    assert "cls_tower.0.weight" in names and not any("norm" in n or n == "cls_tower.0.bias" for n in names)
    with pytest.raises(ValueError, match="divisible by 32"):
        Tower(channels=48)
