"""Weights that hold a part of a model: what is said, and when the model predicts."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.modeling import build_model
from torch import nn

from detkit.checkpoint import CheckpointError, convert_state_dict, load_weights
from detkit.config import get_cfg
from tests.checkpoint.test_loading import as_adelaidet, other_weights
from tests.toys.detectors import random_inputs, tiny_cfg

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def model() -> nn.Module:
    return build_model(tiny_cfg())


def without(state: dict[str, torch.Tensor], start: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(start)}


def test_a_stem_that_is_random_and_frozen_is_said(model: nn.Module) -> None:
    model.backbone.stem.requires_grad_(False)
    _, report = convert_state_dict(without(other_weights(model), "backbone."), model)
    assert report.frozen == ("backbone.stem.weight", "backbone.stem.bias")
    text = str(report)
    assert "Random and frozen, so that no training will change it (2): backbone.stem.{weight, bias}." in text
    assert "MODEL.BACKBONE.FREEZE_AT 0" in text and "it has to be trained" in text


def test_statistics_count_as_frozen_with_their_norm() -> None:
    model = nn.ModuleDict({"a": nn.BatchNorm2d(2), "b": nn.BatchNorm2d(2), "head": nn.Linear(2, 2)})
    model["b"].requires_grad_(False)
    _, report = convert_state_dict(model["head"].state_dict(prefix="head."), model)
    assert set(report.frozen) == {f"b.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
    assert set(report.missing) - set(report.frozen) == {f"a.{name}" for name in ("weight", "bias", "running_mean", "running_var")}


def test_the_report_counts_what_fits(model: nn.Module) -> None:
    state = without(other_weights(model), "head.box_pred.")
    _, report = convert_state_dict(state, model)
    weights = len(report.loaded) + 2
    assert str(report).startswith(f"{len(report.loaded)} of the model's {weights} weights are set, from the layout of detkit.")
    assert "frozen" not in str(report)


@pytest.mark.parametrize("foreign", [False, True])
def test_a_model_that_was_loaded_in_part_does_not_predict(model: nn.Module, foreign: bool) -> None:
    inputs = random_inputs(1)
    model.eval()(inputs)  # random as a whole, as built: that is no accident
    state = without(other_weights(model), "head.cls_score.")
    model.load_state_dict(as_adelaidet(state) if foreign else state, strict=False)
    with pytest.raises(CheckpointError, match=r"cannot predict: 2 of its weights .*random: head.cls_score.\{weight, bias\}"):
        model(inputs)
    with pytest.raises(CheckpointError, match="cannot predict"):
        deepcopy(model)(inputs)
    model.load_state_dict(model.head.cls_score.state_dict(prefix="head.cls_score."), strict=False)  # the rest, in a second file
    model(inputs)


def test_training_makes_a_model_predict(model: nn.Module, tmp_path: Path) -> None:
    torch.save(without(other_weights(model), "head.cls_score."), tmp_path / "part.pth")
    load_weights(model, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match="cannot predict"):
        model.eval()(random_inputs(1))
    model.train()(random_inputs(1))
    model.eval()(random_inputs(1))
    load_weights(model, tmp_path / "part.pth")  # the classifier has been trained since
    model(random_inputs(1))


@pytest.fixture(scope="module")
def torchvision_fcos() -> nn.Module:
    return torchvision.models.detection.fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)


def fcos_cfg(num_classes: int) -> object:
    cfg = get_cfg()
    cfg.merge_from_file(CONFIGS / "fcos" / "fcos_R_50_FPN_1x.yaml")
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.FCOS.NUM_CLASSES", num_classes, "MODEL.RESNETS.STRIDE_IN_1X1", False]
    )
    return cfg


def test_torchvisions_fcos_is_named_and_read(torchvision_fcos: nn.Module) -> None:
    state = torchvision_fcos.state_dict()
    model = build_model(fcos_cfg(91))
    scales = {"head.scales." + key for key in model.head.scales.state_dict()}
    converted, report = convert_state_dict(state, model)
    assert report.source == "torchvision FCOS"
    assert not report.unexpected and not report.mismatched and set(report.missing) <= scales
    assert all(key.endswith("num_batches_tracked") for key in report.ignored)
    model.load_state_dict(converted, strict=False)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        theirs = list(torchvision_fcos.eval().backbone(image).values())
        ours = list(model.eval().backbone(image).values())
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        logits = torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in model.head(ours).logits], dim=1)
        torch.testing.assert_close(logits, torchvision_fcos.head(theirs)["cls_logits"], rtol=1e-4, atol=1e-4)


def test_torchvisions_fcos_with_other_classes_is_still_named(torchvision_fcos: nn.Module) -> None:
    _, report = convert_state_dict(torchvision_fcos.state_dict(), build_model(fcos_cfg(3)))
    assert report.source == "torchvision FCOS"
    assert [key for key, _, _ in report.mismatched] == ["head.cls_score.weight", "head.cls_score.bias"]
