"""What stages hand on to each other, and their layers against the formulas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from detkit.geometry import DeltaBoxCoder
from detkit.layers import PyramidPooler
from sparsercnn.head import IterativeHead
from sparsercnn.interaction import DynamicInteraction, StaticInteraction
from sparsercnn.stage import BoxEncoding, FeedForward, SelfAttention, Stage

CHANNELS, SIZE = 16, torch.tensor([[60.0, 80.0]])


class Watched(Stage):
    """Remembers what it was given."""

    def forward(self, features: Tensor | None, rois: Tensor, boxes: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
        self.given = features, boxes
        return super().forward(features, rois, boxes, *others)


def make_head(interaction: type = DynamicInteraction) -> IterativeHead:
    torch.manual_seed(0)
    hidden = {"dynamic_channels": 4} if interaction is DynamicInteraction else {"hidden_channels": 8}
    stages = [
        Watched(
            channels=CHANNELS,
            num_logits=3,
            interaction=interaction(channels=CHANNELS, bins=9, **hidden),
            ffn=FeedForward(channels=CHANNELS, hidden_channels=24),
        )
        for _ in range(3)
    ]
    pooler = PyramidPooler(output_size=3, scales=[1 / 8], sampling_ratio=2, pooler_type="ROIAlignV2")
    return IterativeHead(stages=stages, pooler=pooler, box_coder=DeltaBoxCoder((2.0, 2.0, 1.0, 1.0)))


def run(head: IterativeHead, features: Tensor | None):
    boxes = torch.tensor([[[4.0, 5.0, 40.0, 50.0], [20.0, 10.0, 70.0, 30.0]]], requires_grad=True)
    return boxes, head([torch.randn(1, CHANNELS, 8, 10)], boxes, features, SIZE)


def test_each_stage_starts_from_the_boxes_and_features_of_the_one_before() -> None:
    head, features = make_head(), torch.randn(1, 2, CHANNELS)
    boxes, outputs = run(head, features)
    first, *others = head.stages
    assert_close(first.given[0], features)
    assert first.given[1] is boxes
    for before, stage in enumerate(others):
        assert_close(stage.given[0], outputs.features[before])
        assert_close(stage.given[1], outputs.boxes[before])
        assert stage.given[0].requires_grad and not stage.given[1].requires_grad


def test_only_the_first_stage_moves_the_proposals() -> None:
    head = make_head()
    boxes, outputs = run(head, torch.randn(1, 2, CHANNELS))
    (moved,) = torch.autograd.grad(outputs.boxes[0].sum(), boxes, retain_graph=True)
    assert (moved != 0).any()
    (unmoved,) = torch.autograd.grad(outputs.boxes[1:].sum(), boxes)
    assert (unmoved == 0).all()


def test_without_feature_reuse_nothing_but_boxes_is_handed_on() -> None:
    head = make_head(StaticInteraction)
    run(head, None)
    assert all(stage.given[0] is None for stage in head.stages)


def test_a_pyramid_in_channels_last_is_brought_into_order_once() -> None:
    """RoIAlign copies maps that are not, in each stage again."""
    head, features = make_head(), torch.randn(1, 2, CHANNELS)
    pooled: list[Tensor] = []
    head.pooler.register_forward_pre_hook(lambda _, given: pooled.append(given[0][0]))
    level = torch.randn(1, CHANNELS, 8, 10)
    boxes = torch.tensor([[[4.0, 5.0, 40.0, 50.0], [20.0, 10.0, 70.0, 30.0]]])
    plain = head([level], boxes, features, SIZE)
    last = head([level.contiguous(memory_format=torch.channels_last)], boxes, features, SIZE)
    assert len(pooled) == 6 and all(x.is_contiguous() for x in pooled)
    assert len({x.data_ptr() for x in pooled[3:]}) == 1
    assert_close(last.boxes, plain.boxes)


def test_feed_forward_layers() -> None:
    layers = FeedForward(channels=CHANNELS, hidden_channels=24)
    x = torch.randn(5, CHANNELS)
    hidden = torch.clamp(x @ layers.linear1.weight.T + layers.linear1.bias, min=0)
    expected = nn.functional.layer_norm(x + hidden @ layers.linear2.weight.T + layers.linear2.bias, (CHANNELS,))
    assert (hidden == 0).any()
    assert_close(layers(x), expected)


def test_attention_is_added_and_normalized() -> None:
    layer = SelfAttention(channels=CHANNELS, num_heads=2)
    x = torch.randn(2, 5, CHANNELS)
    expected = nn.functional.layer_norm(x + layer.attention(x, x, x)[0], (CHANNELS,))
    assert_close(layer(x), expected)


def test_an_encoding_is_added_to_the_features() -> None:
    torch.manual_seed(0)
    interaction = DynamicInteraction(channels=CHANNELS, dynamic_channels=4, bins=9)
    seen: list[Tensor] = []
    interaction.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    encoding = BoxEncoding(channels=CHANNELS)
    stage = Stage(
        channels=CHANNELS, num_logits=3, interaction=interaction, ffn=FeedForward(channels=CHANNELS, hidden_channels=24), encoding=encoding
    )
    features, boxes = torch.randn(1, 2, CHANNELS), torch.tensor([[[4.0, 5.0, 40.0, 50.0], [20.0, 10.0, 70.0, 30.0]]])
    stage(features, torch.randn(2, CHANNELS, 3, 3), boxes, SIZE)
    assert_close(seen[0], (features + encoding(boxes, SIZE)).flatten(0, 1))
