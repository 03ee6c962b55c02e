"""Denoising queries: the distribution of their boxes, their isolation, their losses."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch.testing import assert_close

from detkit.losses import giou_loss
from detkit.structures import GroundTruth
from sparsercnn import SparseRCNN
from sparsercnn.denoising import Denoising
from tests.toys.detectors import build_tiny, random_inputs

COPIES = 3


def objects() -> GroundTruth:
    """Of two images, three and one."""
    full, other = random_inputs()
    return GroundTruth.from_instances([full["instances"], other["instances"][:1]])


def with_and_without() -> tuple[SparseRCNN, SparseRCNN]:
    torch.manual_seed(0)
    plain, denoising = build_tiny(), build_tiny("DENOISING.COPIES", COPIES)
    denoising.load_state_dict(plain.state_dict())  # there are no weights more
    return plain.train(), denoising.train()


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.9])
def test_noise_keeps_its_bounds_and_reaches_them(noise: float) -> None:
    torch.manual_seed(0)
    denoising, gt = Denoising(copies=200, noise=noise), objects()
    groups = denoising.objects(gt)
    noised = denoising.boxes(groups)
    assert noised.shape == (400, 3, 4) and not noised[200:, 1:].any()
    for image, count in enumerate([3, 1]):
        for index in range(count):
            x0, y0, x1, y1 = gt.boxes[image, index].tolist()
            boxes = noised[200 * image : 200 * (image + 1), index]
            widths, heights = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
            centers = (boxes[:, 2:] + boxes[:, :2]) / 2
            shifts = [(centers[:, 0] - (x0 + x1) / 2) / (x1 - x0), (centers[:, 1] - (y0 + y1) / 2) / (y1 - y0)]
            changes = [widths / (x1 - x0) - 1, heights / (y1 - y0) - 1]
            for values, most in [(each, noise / 2) for each in shifts] + [(each, noise) for each in changes]:
                assert values.abs().max() <= most + 1e-4
                assert values.max() >= 0.9 * most - 1e-4 and values.min() <= -0.9 * most + 1e-4  # all of the range is used


def test_groups_do_not_attend_to_each_other() -> None:
    """What the head makes of all copies at once is what it makes of each by itself."""
    _, model = with_and_without()
    assert model.denoising is not None
    images, sizes = model._tensors(model.preprocess_image(random_inputs()))
    pyramid, groups = model._pyramid(images), model.denoising.objects(objects())
    boxes, features = model.denoising.boxes(groups), model.denoising.features(model.proposals.features, groups)
    together = model.head(pyramid, boxes, features, sizes.repeat_interleave(COPIES, 0), model.denoising.seen(groups))
    for copy in range(COPIES):
        alone = model.head(pyramid, boxes[copy::COPIES], features[copy::COPIES], sizes, model.denoising.seen(objects()))
        assert_close(together.boxes[:, copy::COPIES], alone.boxes, rtol=1e-4, atol=1e-3)
        assert_close(together.logits[:, copy::COPIES], alone.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [3, 40])
def test_an_image_learns_the_same_beside_one_with_more_objects(count: int) -> None:
    """Padding is not attended to, and changes no feature."""
    _, model = with_and_without()
    (item,) = random_inputs(1)
    model.denoising = Denoising(copies=COPIES, noise=0.0)  # equal queries, however many are drawn
    images, sizes = model._tensors(model.preprocess_image([item]))
    of_two = item["instances"][:2]
    outputs = []
    for padded in (2, count):
        gt = GroundTruth.from_instances([of_two], min_objects=padded)
        _, denoised = model.outputs_with_denoised(images, sizes, gt)
        assert denoised.boxes.shape == (2, COPIES, padded, 4)
        outputs.append((denoised.boxes[:, :, :2], model.denoising_losses(denoised, gt)))
    assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-3)
    assert outputs[0][1]["loss_l1_denoising"] > 0


def test_features_are_those_of_the_proposals_in_turn() -> None:
    denoising, learned = Denoising(copies=2), torch.randn(5, 4)
    features = denoising.features(learned, denoising.objects(objects()))
    for image in range(2):
        for copy in range(2):
            for index in range(3):
                assert features[2 * image + copy, index].equal(learned[(2 * index + copy) % 5])
    assert denoising.features(None, objects()) is None


def test_losses_of_proposals_do_not_change_and_classes_are_not_learned() -> None:
    plain, model = with_and_without()
    expected = plain(random_inputs())
    torch.manual_seed(1)
    losses = model(random_inputs())
    assert set(losses) == set(expected) | {"loss_l1_denoising", "loss_giou_denoising"}
    assert_close({name: losses[name] for name in expected}, expected)
    added = losses["loss_l1_denoising"] + losses["loss_giou_denoising"]
    gradients = torch.autograd.grad(added, [*model.head.stages.parameters()], allow_unused=True)
    names = [name for name, _ in model.head.stages.named_parameters()]
    untouched = {name for name, gradient in zip(names, gradients, strict=True) if gradient is None or not gradient.any()}
    assert untouched == {name for name in names if ".cls_" in name}


def test_losses_object_by_object() -> None:
    _, model = with_and_without()
    gt = objects()
    model.denoising = Denoising(copies=COPIES, noise=0.4, weight=0.5)
    inputs = random_inputs()
    _, denoised = model.outputs_with_denoised(*model._tensors(model.preprocess_image(inputs)), gt)
    losses = model.denoising_losses(denoised, gt)
    distances, overlaps = [], []
    for stage in range(2):
        for image, count in enumerate([3, 1]):
            for copy in range(COPIES):
                for index in range(count):
                    box, target = denoised.boxes[stage, COPIES * image + copy, index], gt.boxes[image, index]
                    distances.append(((box - target).abs() / torch.tensor([128.0, 96, 128, 96])).sum())
                    overlaps.append(giou_loss(box[None], target[None])[0])
    number = COPIES * 4
    assert_close(losses["loss_l1_denoising"], 0.5 * 5.0 * torch.stack(distances).sum() / number)
    assert_close(losses["loss_giou_denoising"], 0.5 * 2.0 * torch.stack(overlaps).sum() / number)


def test_without_objects() -> None:
    _, model = with_and_without()
    (item,) = random_inputs(1)
    empty = Instances((96, 128))
    empty.gt_boxes, empty.gt_classes = Boxes(torch.zeros(0, 4)), torch.zeros(0, dtype=torch.int64)
    losses = model([item | {"instances": empty}])
    assert losses["loss_l1_denoising"] == losses["loss_giou_denoising"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_noise_is_removed_after_some_steps() -> None:
    """Mean IoU of the queries with their objects, before and after the stages."""
    torch.manual_seed(0)
    model, inputs = build_tiny("DENOISING.COPIES", 4, "HEAD.BOX_PRED_GAIN", 0.0).train(), random_inputs(1)
    gt = GroundTruth.from_instances([inputs[0]["instances"]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.manual_seed(0)  # the same queries again
        losses = model(inputs)
        (losses["loss_l1_denoising"] + losses["loss_giou_denoising"]).backward()
        optimizer.step()
    torch.manual_seed(0)
    noised = model.denoising.boxes(model.denoising.objects(gt))
    torch.manual_seed(0)
    with torch.no_grad():
        _, denoised = model.outputs_with_denoised(*model._tensors(model.preprocess_image(inputs)), gt)

    def overlap(boxes: torch.Tensor) -> float:
        return pairwise_iou(Boxes(boxes.flatten(0, 1)), Boxes(gt.boxes[0])).view(4, 3, 3).diagonal(dim1=1, dim2=2).mean().item()

    assert overlap(denoised.boxes[-1]) > overlap(noised) + 0.1


@pytest.mark.parametrize("changes", [{"copies": 0}, {"copies": 2, "noise": 1.0}])
def test_values_that_cannot_be(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="they have to be at least 1 and in"):
        Denoising(**changes)
    with pytest.raises(ValueError, match=r"DENOISING.NOISE is 0.2, but DENOISING.COPIES 0 does not read it"):
        build_tiny("DENOISING.NOISE", 0.2)


def test_a_static_head_has_no_features_to_take() -> None:
    model = build_tiny(
        "HEAD.INTERACTION", "static", "HEAD.SELF_ATTENTION", False, "HEAD.DYNAMIC_CHANNELS", 64, "DENOISING.COPIES", 2
    )  # fmt: skip
    assert model.train()(random_inputs())["loss_l1_denoising"] > 0


def test_mixed_precision() -> None:
    _, model = with_and_without()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(random_inputs())
    assert losses["loss_giou_denoising"].dtype == torch.float32 and losses["loss_giou_denoising"] > 0
