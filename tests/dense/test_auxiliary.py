"""A second assignment beside the one that a detector is tested with."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from torch.testing import assert_close

from detkit.assigners import ASSIGNER_REGISTRY
from tests.toys.detectors import random_inputs, tiny_cfg

ASSIGNERS = sorted(name for name, kind in ASSIGNER_REGISTRY if kind.__module__.split(".")[0] == "detkit")
ONE_TO_ONE = {"ASSIGNER": "POTOAssigner", "HEAD.QUALITY": "none", "LOSS.BOX_WEIGHTING": "uniform"}


def detector(method: str = "FCOS", **changes):
    """The same weights whatever the keys say; ``__`` stands for the dot."""
    cfg = tiny_cfg(method)
    cfg.MODEL.ASSIGNERS.FOVEABOX.SIZES = [32, 64, 128]
    cfg.merge_from_list([part for key, value in changes.items() for part in (f"MODEL.{method}.{key.replace('__', '.')}", value)])
    torch.manual_seed(0)
    return build_model(cfg).train()


def losses_of(**changes):
    return detector(**ONE_TO_ONE | changes)(random_inputs())


def test_its_losses_are_those_of_a_detector_with_that_assigner():
    plain, other = losses_of(), losses_of(ASSIGNER="ATSSAssigner")
    found = losses_of(AUXILIARY__ASSIGNER="ATSSAssigner", AUXILIARY__CLS_WEIGHT=0.7, AUXILIARY__BOX_WEIGHT=0.3)
    assert set(found) == {"loss_cls", "loss_box", "loss_auxiliary_cls", "loss_auxiliary_box"}
    assert plain["loss_cls"] != other["loss_cls"]
    for name in ("cls", "box"):
        assert_close(found[f"loss_{name}"], plain[f"loss_{name}"])
    assert_close(found["loss_auxiliary_cls"], 0.7 * other["loss_cls"])
    assert_close(found["loss_auxiliary_box"], 0.3 * other["loss_box"])


def test_a_term_without_weight_is_left_out():
    assert set(losses_of(AUXILIARY__ASSIGNER="ATSSAssigner")) == {"loss_cls", "loss_box", "loss_auxiliary_cls"}
    found = losses_of(AUXILIARY__ASSIGNER="ATSSAssigner", AUXILIARY__CLS_WEIGHT=0.0, AUXILIARY__BOX_WEIGHT=1.0)
    assert set(found) == {"loss_cls", "loss_box", "loss_auxiliary_box"}


def test_weights_beside_labels_and_labels_beside_weights():
    found = losses_of(AUXILIARY__ASSIGNER="TaskAlignedAssigner", LOSS__BOX="giou", AUXILIARY__BOX_WEIGHT=1.0)
    assert set(found) == {"loss_cls", "loss_box", "loss_auxiliary_cls_pos", "loss_auxiliary_cls_neg", "loss_auxiliary_box"}
    model = detector("DW", AUXILIARY__ASSIGNER="FCOSAssigner", AUXILIARY__BOX_WEIGHT=1.0, LOSS__FOCAL_ALPHA=0.3)
    assert model.auxiliary.criterion.focal_alpha == 0.3  # which the loss of the weights does not read
    found = model(random_inputs())
    assert set(found) == {"loss_cls_pos", "loss_cls_neg", "loss_box", "loss_auxiliary_cls", "loss_auxiliary_box"}


def test_it_does_not_see_the_quality():
    """Which learns with the class in the loss of weighted pairs: by the one-to-one labels alone."""
    keys = {"HEAD.NAME": "MaxFilteringHead", "HEAD.QUALITY": "box", "LOSS.CRITERION": "weighted", "ASSIGNER": "POTOAssigner"}
    model = detector(**keys, AUXILIARY__ASSIGNER="QualityATSSAssigner")
    losses = model(random_inputs())
    sum(loss for name, loss in losses.items() if "auxiliary" in name).backward()
    assert model.head.quality.weight.grad is None and model.head.cls_score.weight.grad.any()
    seen = []
    model.auxiliary.assigner.register_forward_hook(lambda module, inputs, result: seen.append(inputs[0].predictions))
    model(random_inputs())
    assert seen[0].quality is None and seen[0].logits.shape == (2, 252, 3)


def test_it_is_there_in_training_alone():
    plain, model = detector(**ONE_TO_ONE), detector(**ONE_TO_ONE, AUXILIARY__ASSIGNER="QualityATSSAssigner")
    assert set(model.state_dict()) == set(plain.state_dict())
    for one in (plain, model):
        one.eval().postprocessor.score_thresh = 0.0
    with torch.no_grad():
        expected, found = plain(random_inputs()), model(random_inputs())
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours["instances"]) == 100 and ours["instances"].scores.equal(theirs["instances"].scores)


def test_moving_averages_of_both_are_their_own():
    keys = ONE_TO_ONE | {"LOSS.NORMALIZER": "moving_fg", "AUXILIARY.ASSIGNER": "ATSSAssigner"}
    model = detector(**keys)
    model(random_inputs())
    assert model.criterion.normalizer.average < model.auxiliary.criterion.normalizer.average < 100


def test_one_that_needs_anchors_finds_them():
    model = detector("ATSS", ASSIGNER="OneNetAssigner", AUXILIARY__ASSIGNER="ATSSAssigner", TEST__NMS_THRESH="none")
    assert model.postprocessor.nms_thresh is None
    assert model(random_inputs())["loss_auxiliary_cls"] > 0


@pytest.mark.parametrize("name", ASSIGNERS)
def test_every_assigner_may_stand_beside(name):
    losses = detector(ASSIGNER="OneNetAssigner", LOSS__BOX="giou", AUXILIARY__ASSIGNER=name)(random_inputs())
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()) and any("auxiliary" in loss for loss in losses)
