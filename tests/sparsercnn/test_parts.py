"""Proposals, interactions, criterion and post-processing alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import nn

from detkit.losses import giou_loss
from detkit.structures import GroundTruth
from sparsercnn.criterion import FocalClassLoss, SetCriterion, SoftmaxClassLoss
from sparsercnn.head import StageOutputs
from sparsercnn.interaction import AttentionInteraction, ConcatInteraction, DynamicConv, DynamicInteraction, Interaction, StaticInteraction
from sparsercnn.postprocess import SetPostprocessor
from sparsercnn.proposals import INITIAL_BOXES, LearnedProposals, grid_boxes
from sparsercnn.stage import BoxEncoding
from tests.toys.detectors import build_tiny, random_inputs

BINS, CHANNELS = 9, 16


@pytest.mark.parametrize("name", INITIAL_BOXES)
@pytest.mark.parametrize("count", [1, 7, 100, 300])
def test_initial_boxes_lie_in_the_image(name: str, count: int) -> None:
    boxes = INITIAL_BOXES[name](count)
    assert boxes.shape == (count, 4) and (boxes[:, 2:] > 0).all() and (boxes >= 0).all() and (boxes <= 1).all()


@pytest.mark.parametrize("count", [1, 2, 5, 49, 100, 300])
def test_grid_tiles_the_image(count: int) -> None:
    boxes, _ = LearnedProposals(initial_boxes=grid_boxes(count), channels=4)(torch.tensor([[600.0, 800.0]]))
    tiles = Boxes(boxes[0])
    assert tiles.area().sum().item() == pytest.approx(600 * 800, rel=1e-4)
    overlap = pairwise_iou(tiles, tiles)
    assert (overlap - torch.eye(count)).abs().max() < 1e-3
    if count == 100:
        torch.testing.assert_close(tiles.area(), torch.full((100,), 4800.0))


def test_sizes_of_proposals_stay_positive() -> None:
    """A size that was learned below zero would turn the box inside out."""
    boxes, _ = LearnedProposals(initial_boxes=torch.tensor([[0.5, 0.5, -0.2, 0.4]]), channels=4)(torch.tensor([[600.0, 800.0]]))
    width, height = (boxes[0, 0, 2:] - boxes[0, 0, :2]).tolist()
    assert width == pytest.approx(0.8, rel=1e-3) and height == pytest.approx(240)


INTERACTIONS: dict[str, Interaction] = {
    "dynamic": DynamicInteraction(channels=CHANNELS, dynamic_channels=4, bins=BINS),
    "attention": AttentionInteraction(channels=CHANNELS, num_heads=2),
    "concat": ConcatInteraction(channels=CHANNELS, hidden_channels=8, bins=BINS),
    "static": StaticInteraction(channels=CHANNELS, hidden_channels=8, bins=BINS),
}


@pytest.mark.parametrize("name", INTERACTIONS)
def test_interactions_see_their_own_roi_and_feature_alone(name: str) -> None:
    interaction = INTERACTIONS[name]
    features, rois = torch.randn(5, CHANNELS), torch.randn(5, BINS, CHANNELS)
    before = interaction(features, rois)
    assert before.shape == (5, CHANNELS)
    other_rois, other_features = rois.clone(), features.clone()
    other_rois[2] += 1.0
    other_features[3] += torch.randn(CHANNELS)
    changed = (interaction(other_features, other_rois) - before).abs().amax(1) > 1e-5
    assert changed.tolist() == [False, False, True, interaction.uses_features, False]


def test_order_of_the_bins() -> None:
    """Attention does not see where a bin lies, the dynamic layers' output does."""
    features, rois = torch.randn(2, CHANNELS), torch.randn(2, BINS, CHANNELS)
    turned = rois.flip(1)
    attention, dynamic = INTERACTIONS["attention"], INTERACTIONS["dynamic"]
    torch.testing.assert_close(attention(features, rois), attention(features, turned))
    assert not torch.allclose(dynamic(features, rois), dynamic(features, turned), atol=1e-3)


def test_dynamic_layers_as_in_figure_4() -> None:
    """One proposal after the other, with its own two matrices."""
    conv = DynamicConv(channels=CHANNELS, dynamic_channels=4, bins=BINS)
    features, rois = torch.randn(3, CHANNELS), torch.randn(3, BINS, CHANNELS)
    expected = []
    for feature, roi in zip(features, rois, strict=True):
        parameters = conv.generator(feature)
        x = conv.norm1(roi @ parameters[: CHANNELS * 4].view(CHANNELS, 4)).relu()
        x = conv.norm2(x @ parameters[CHANNELS * 4 :].view(4, CHANNELS)).relu()
        expected.append(conv.norm_out(conv.out(x.flatten())).relu())
    torch.testing.assert_close(conv(features, rois), torch.stack(expected))


def test_without_feature_reuse_there_are_no_features() -> None:
    model = build_tiny("HEAD.INTERACTION", "static", "HEAD.SELF_ATTENTION", False)
    assert model.proposals.features is None and not model.head.uses_features
    assert build_tiny().proposals.features is not None


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (("HEAD.INTERACTION", "concat", "HEAD.SELF_ATTENTION", False), ConcatInteraction),
        (("HEAD.INTERACTION", "attention"), AttentionInteraction),
        (("HEAD.POSITIONAL_ENCODING", True), DynamicInteraction),
        (("HEAD.INTERACTION", "static", "HEAD.SELF_ATTENTION", False, "NUM_STAGES", 1), StaticInteraction),
    ],
)
def test_ablations_train(options: tuple, kind: type[nn.Module]) -> None:
    model = build_tiny(*options).train()
    assert all(type(stage.interaction) is kind for stage in model.head.stages)
    sum(model(random_inputs()).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_box_encoding_knows_place_and_size() -> None:
    encoding, size = BoxEncoding(channels=16), torch.tensor([[100.0, 200.0]])
    boxes = torch.tensor([[[0.0, 0.0, 20.0, 10.0], [20.0, 0.0, 40.0, 10.0], [0.0, 0.0, 20.0, 20.0]]])
    (codes,) = encoding(boxes, size)
    assert torch.pdist(codes).min() > 1e-3
    torch.testing.assert_close(encoding(2 * boxes, 2 * size)[0], codes)


def stage_outputs(stages: int = 2, logits: int = 3) -> tuple[StageOutputs, torch.Tensor, GroundTruth]:
    rng = torch.Generator().manual_seed(0)
    low = 50 * torch.rand(stages, 2, 4, 2, generator=rng)
    boxes = torch.cat([low, low + 20 * torch.rand(stages, 2, 4, 2, generator=rng)], dim=-1)
    outputs = StageOutputs(torch.randn(stages, 2, 4, logits, generator=rng), boxes, boxes, torch.tensor([[60.0, 80.0], [50.0, 70.0]]))
    gt_boxes = torch.tensor([[[5.0, 5.0, 30.0, 40.0], [0.0, 0.0, 9.0, 9.0]], [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]]])
    gt = GroundTruth(gt_boxes, torch.tensor([[2, 0], [1, 0]]), torch.tensor([[True, True], [True, False]]))
    assignments = torch.tensor([[[0, -1, 1, -1], [-1, -1, -1, 0]], [[-1, 1, 0, -1], [0, -1, -1, -1]]])
    return outputs, assignments, gt


def test_criterion_as_a_loop_over_pairs() -> None:
    outputs, assignments, gt = stage_outputs()
    losses = SetCriterion(num_classes=3, class_loss=FocalClassLoss())(outputs, assignments, gt)
    for stage, suffix in ((0, "_stage0"), (1, "")):
        focal = l1 = giou = 0.0
        for i in range(2):
            scale = outputs.image_sizes[i].flip(0).repeat(2)
            for n, g in enumerate(assignments[stage, i].tolist()):
                for k, logit in enumerate(outputs.logits[stage, i, n]):
                    p = logit.sigmoid()
                    positive = g >= 0 and gt.classes[i, g] == k
                    focal += float(-0.25 * (1 - p) ** 2 * p.log() if positive else -0.75 * p**2 * (1 - p).log())
                if g >= 0:
                    l1 += float(((outputs.boxes[stage, i, n] - gt.boxes[i, g]) / scale).abs().sum())
                    giou += float(giou_loss(outputs.boxes[stage, i, n], gt.boxes[i, g]))
        expected = torch.tensor([2 * focal, 5 * l1, 2 * giou]) / 3
        torch.testing.assert_close(torch.stack([losses[f"loss_{term}{suffix}"] for term in ("cls", "l1", "giou")]), expected)


def test_what_losses_are_divided_by() -> None:
    outputs, assignments, gt = stage_outputs()
    assignments[1, 0, 1] = -1  # two matches at the last stage, three at the first
    by = {
        name: SetCriterion(num_classes=3, class_loss=FocalClassLoss(), normalizer=name)(outputs, assignments, gt)
        for name in ("objects", "matches")
    }
    for term in ("cls", "l1", "giou"):
        torch.testing.assert_close(by["matches"][f"loss_{term}"] * 2, by["objects"][f"loss_{term}"] * 3)
        torch.testing.assert_close(by["matches"][f"loss_{term}_stage0"], by["objects"][f"loss_{term}_stage0"])


def test_unmatched_boxes_get_no_gradient_even_if_wild() -> None:
    outputs, assignments, gt = stage_outputs(stages=1)
    boxes = outputs.boxes.clone()
    boxes[0, 0, 1] = torch.tensor([-1e30, -1e30, 1e30, 1e30])
    boxes.requires_grad_()
    criterion = SetCriterion(num_classes=3, class_loss=FocalClassLoss())
    losses = criterion(replace(outputs, boxes=boxes), assignments[:1], gt)
    sum(losses.values()).backward()
    matched = assignments[0] >= 0
    assert boxes.grad.isfinite().all() and boxes.grad[0][matched].abs().sum(1).all() and not boxes.grad[0][~matched].any()


def test_softmax_loss_is_a_weighted_mean() -> None:
    logits, labels = torch.randn(1, 3, 3), torch.tensor([[0, 2, 2]])
    (loss,) = SoftmaxClassLoss(num_classes=2, no_object_weight=0.1)(logits[None], labels[None], torch.tensor([7.0]))
    nll = -logits.log_softmax(-1)[0].gather(1, labels[0][:, None])[:, 0]
    torch.testing.assert_close(loss, (nll * torch.tensor([1.0, 0.1, 0.1])).sum() / 1.2)


def test_the_best_pairs_of_proposal_and_class() -> None:
    logits = torch.tensor([[[3.0, 2.0], [-1.0, 5.0], [0.0, -3.0]]])
    boxes = torch.arange(12.0).view(1, 3, 4)
    (found,) = SetPostprocessor(max_detections=3)(logits, boxes).to_instances([(10, 20)])
    assert found.pred_classes.tolist() == [1, 0, 1] and found.pred_boxes.tensor[:, 0].tolist() == [4.0, 0.0, 0.0]
    torch.testing.assert_close(found.scores, torch.tensor([5.0, 3.0, 2.0]).sigmoid())
    (few,) = SetPostprocessor(max_detections=100)(logits, boxes).to_instances([(10, 20)])
    assert len(few) == 6


def test_softmax_gives_each_proposal_its_best_class() -> None:
    logits = torch.tensor([[[3.0, 2.0, 9.0], [-1.0, 5.0, 0.0]]])
    (found,) = SetPostprocessor(activation="softmax")(logits, torch.zeros(1, 2, 4)).to_instances([(10, 20)])
    assert found.pred_classes.tolist() == [1, 0]
    torch.testing.assert_close(found.scores, torch.stack([logits[0, 1].softmax(0)[1], logits[0, 0].softmax(0)[0]]))


def test_a_test_stage_that_learns_duplicates_is_said(caplog: pytest.LogCaptureFixture) -> None:
    build_tiny("MATCHES_PER_OBJECT", [4], "TEST.STAGE", -1)
    assert "nothing suppresses them" not in caplog.text
    build_tiny("MATCHES_PER_OBJECT", [4], "TEST.STAGE", 0)
    assert "SPARSE_RCNN.TEST.STAGE is 0, whose training matches 4 proposals to each object" in caplog.text
