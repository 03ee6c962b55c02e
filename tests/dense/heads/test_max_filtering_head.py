import pytest
import torch
from torch.testing import assert_close

from detkit.dense.heads import DenseHead, MaxFilteringHead
from detkit.layers import Tower


def make_head(**changed):
    arguments = {"in_channels": 32, "num_classes": 3, "num_levels": 3, "tower": Tower(channels=32, num_convs=1)} | changed
    torch.manual_seed(0)
    return MaxFilteringHead(**arguments)


def features():
    torch.manual_seed(1)
    return [torch.randn(2, 32, 8, 12), torch.randn(2, 32, 4, 6), torch.randn(2, 32, 2, 3)]


def test_classes_and_boxes_are_those_of_the_plain_head():
    head, plain = make_head(num_anchors=2), DenseHead(**{"in_channels": 32, "num_classes": 3, "num_levels": 3, "num_anchors": 2} | TOWER)
    plain.load_state_dict({name: value for name, value in head.state_dict().items() if not name.startswith("filter.")})
    found, expected = head(features()), plain(features())
    for kind in ("logits", "boxes"):
        for ours, theirs in zip(getattr(found, kind), getattr(expected, kind), strict=True):
            assert ours.equal(theirs)
    assert [x.shape for x in found.quality] == [x.shape for x in expected.quality]
    assert not found.quality[0].equal(expected.quality[0])


TOWER = {"tower": Tower(channels=32, num_convs=1)}


def test_the_quality_is_that_of_filtered_features_of_the_box_tower():
    head = make_head()
    filtered = head.filter([head.box_tower(x) for x in features()])
    for found, feature in zip(head(features()).quality, filtered, strict=True):
        assert_close(found, head.quality(feature))
    sum(x.sum() for x in head(features()).quality).backward()
    reached = {name.split(".")[0] for name, p in head.named_parameters() if p.grad is not None}
    assert reached == {"box_tower", "filter", "quality"}


def test_the_filter_follows_the_tower():
    assert make_head(tower=Tower(channels=24, num_convs=1, norm="")).filter.norm is None
    assert make_head(filter_size=5, filter_levels=4).filter.levels == 4
    with pytest.raises(ValueError, match="takes the norm 'GN' or ''"):
        make_head(tower=Tower(channels=32, num_convs=1, norm="BN"))
    with pytest.raises(ValueError, match="sits on 'box', not 'cls'"):
        make_head(quality="cls")
