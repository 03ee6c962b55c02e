"""Loading weights into models: reports, strictness, Detectron2's machinery."""

from __future__ import annotations

import logging
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import Tensor, nn

from detkit import get_config_file
from detkit.checkpoint import CheckpointError, conversion, convert_state_dict, load_state, load_weights, loading
from detkit.config import get_cfg
from tests.toys.detectors import random_inputs, tiny_cfg


@pytest.fixture
def model() -> nn.Module:
    """In layouts of other codes, whose published weights have nothing to do with it."""
    model = build_model(tiny_cfg())
    model.conventions = None
    return model


def other_weights(model: nn.Module) -> dict[str, Tensor]:
    """A state dict of the model with other values."""
    return {key: torch.rand_like(value) for key, value in model.state_dict().items()}


def as_adelaidet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that AdelaiDet gives to a head with one convolution per tower."""
    renamed = {}
    for key, value in state.items():
        for ours, theirs in [
            ("head.cls_tower.0.norm.", "cls_tower.1."),
            ("head.cls_tower.0.", "cls_tower.0."),
            ("head.box_tower.0.norm.", "bbox_tower.1."),
            ("head.box_tower.0.", "bbox_tower.0."),
            ("head.cls_score.", "cls_logits."),
            ("head.box_pred.", "bbox_pred."),
            ("head.quality.", "ctrness."),
            ("head.scales.", "scales."),
        ]:
            if key.startswith(ours):
                key = key.replace(ours, f"proposal_generator.fcos_head.{theirs}")
                value = value.reshape(1) if theirs == "scales." else value
        renamed[key] = value
    return renamed


def test_own_weights(model: nn.Module) -> None:
    state = other_weights(model)
    converted, report = convert_state_dict(state, model)
    assert report.complete
    assert report.source == "detkit"
    torch.testing.assert_close(converted, state)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_another_layout_sets_everything(model: nn.Module, prefix: str) -> None:
    state = other_weights(model)
    converted, report = convert_state_dict({prefix + key: value.numpy() for key, value in as_adelaidet(state).items()}, model)
    assert report.complete, str(report)
    assert report.source == "AdelaiDet FCOS"
    torch.testing.assert_close(converted, state)


def test_plain_load_state_dict_takes_another_layout(model: nn.Module) -> None:
    state = other_weights(model)
    model.load_state_dict(as_adelaidet(state))
    torch.testing.assert_close(dict(model.state_dict()), state)


def test_detectron2s_own_checkpointer_takes_another_layout(model: nn.Module, tmp_path: Path) -> None:
    """So that ``DefaultPredictor(cfg)`` works with published weights."""
    state = other_weights(model)
    torch.save({"model": {f"module.{key}": value for key, value in as_adelaidet(state).items()}}, tmp_path / "weights.pth")
    DetectionCheckpointer(model).load(str(tmp_path / "weights.pth"))
    torch.testing.assert_close(dict(model.state_dict()), state)


def test_wrong_class_count_says_what_is_left(model: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = tiny_cfg()
    cfg.MODEL.FCOS.NUM_CLASSES = 5
    torch.save(build_model(cfg).state_dict(), tmp_path / "weights.pth")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        report = load_weights(model, str(tmp_path / "weights.pth"))
    assert [key for key, _, _ in report.mismatched] == ["head.cls_score.weight", "head.cls_score.bias"]
    assert "head.cls_score.bias has shape (5,) in the file and (3,) in the model" in caplog.text
    assert "The number of classes differs" in caplog.text
    torch.testing.assert_close(model.state_dict()["head.cls_score.bias"], before["head.cls_score.bias"])


def test_partial_weights(model: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = other_weights(model)
    del state["head.box_pred.weight"], state["head.box_pred.bias"]
    state["head.extra.weight"] = torch.zeros(2)
    path = str(tmp_path / "weights.pth")
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="only in part") as error:
        load_weights(model, path, strict=True)
    assert "head.box_pred.{weight, bias}" in str(error.value)
    assert "head.extra.weight" in str(error.value)
    with caplog.at_level(logging.WARNING):
        report = load_weights(model, path)
    assert report.missing == ("head.box_pred.weight", "head.box_pred.bias")
    assert report.unexpected == ("head.extra.weight",)
    assert "head.box_pred.{weight, bias}" in caplog.text


def resnet_18(*changes: Any) -> nn.Module:
    """FCOS on a ResNet-18 whose stem and first stage are frozen."""
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file("Base-Dense.yaml"))
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "FCOS", "MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", 18, "MODEL.WEIGHTS", ""])
    cfg.merge_from_list(["MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.STRIDE_IN_1X1", False])
    cfg.merge_from_list(["MODEL.FCOS.HEAD.CHANNELS", 32, "MODEL.FPN.OUT_CHANNELS", 32, *changes])
    return build_model(cfg)


def test_what_is_random_and_frozen_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A backbone whose stem has other names: that training leaves it random was not said."""
    model = resnet_18()
    state = {
        key: value
        for key, value in torchvision.models.resnet18(weights=None).state_dict().items()
        if key not in ("conv1.weight", "fc.bias")
    }
    with caplog.at_level(logging.INFO):
        report = load_state(model, state, source="resnet.pth")
    assert report.frozen == ("backbone.bottom_up.stem.conv1.weight",) and report.backbone_only
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Random and frozen (1): backbone.bottom_up.stem.conv1.weight" in caplog.text and "MODEL.BACKBONE.FREEZE_AT 0" in caplog.text
    assert "backbone.bottom_up 99 of 100, head 0 of" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        report = load_state(resnet_18("MODEL.BACKBONE.FREEZE_AT", 0), state, source="resnet.pth")
    assert report.frozen == () and [record.levelname for record in caplog.records] == ["INFO"]


@pytest.mark.parametrize(
    ("make", "source"),
    [
        (torchvision.models.detection.fasterrcnn_resnet50_fpn, "a layout that is most like that of torchvision FCOS"),
        (torchvision.models.detection.fcos_resnet50_fpn, "the layout of torchvision FCOS"),
        (torchvision.models.detection.retinanet_resnet50_fpn, "the layout of torchvision RetinaNet"),
        (torchvision.models.detection.retinanet_resnet50_fpn_v2, "the layout of torchvision RetinaNet v2"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_layouts_of_torchvision_are_named_rightly(make: Any, source: str) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file("fcos/fcos_R_50_FPN_1x.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "meta", ""
    with torch.device("meta"):
        _, report = convert_state_dict(make(weights=None, weights_backbone=None).state_dict(), build_model(cfg))
    assert str(report).splitlines()[0].endswith(f"weights from {source}.")
    assert not any(name.startswith("backbone.bottom_up") for name in report.missing)


@pytest.mark.parametrize("lacking", ["head.cls_score.bias", "backbone.stem.weight"])
def test_a_model_that_predicts_takes_weights_for_all_of_it(model: nn.Module, lacking: str, tmp_path: Path) -> None:
    state = other_weights(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for layout in (state, as_adelaidet(state)):
        part = {key: value for key, value in layout.items() if key != lacking and not key.endswith("cls_logits.bias")}
        torch.save(part, tmp_path / "part.pth")
        model.eval()
        with pytest.raises(CheckpointError, match="its predictions would mean nothing"):
            model.load_state_dict(part, strict=False)
        with pytest.raises(CheckpointError, match="fits the model only in part"):
            load_weights(model, tmp_path / "part.pth")
        torch.testing.assert_close(dict(model.state_dict()), before)
    model.train().load_state_dict(part, strict=False)
    with pytest.raises(CheckpointError, match="Not one of the checkpoint's 1 keys"):
        model.eval().load_state_dict({"other": torch.zeros(1)}, strict=False)


def test_weights_that_fit_nothing(model: nn.Module, tmp_path: Path) -> None:
    torch.save({"some.other.weight": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"weights.pth: Not one of the checkpoint's 1 keys fits the model. It has some.other.weight"):
        load_weights(model, str(tmp_path / "weights.pth"))


def test_a_state_dict_with_something_else(model: nn.Module) -> None:
    with pytest.raises(CheckpointError, match="The entry 'meta' of the checkpoint is a dict, not a tensor"):
        convert_state_dict({"meta": {}}, model)


def test_two_keys_for_one_weight(model: nn.Module) -> None:
    state = {"bbox_head.conv_cls.bias": torch.zeros(3), "bbox_head.fcos_cls.bias": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"both stand for 'head.cls_score.bias'"):
        convert_state_dict(state, model)


class WithNorm(nn.Module):
    """The normalization of a ResNet's stem."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"bottom_up": nn.ModuleDict({"stem": nn.ModuleDict({"conv1": nn.ModuleDict()})})})
        self.backbone["bottom_up"]["stem"]["conv1"]["norm"] = nn.BatchNorm2d(2)


def test_statistics_that_are_folded_into_the_weights_are_the_identity() -> None:
    """As in MSRA's ResNets: with batch norm's epsilon the variance is 1."""
    source = {"stem.conv1.norm.weight": torch.tensor([2.0, 3.0]), "stem.conv1.norm.bias": torch.tensor([0.5, -1.0])}
    model = WithNorm().eval()
    norm = model.backbone["bottom_up"]["stem"]["conv1"]["norm"]
    nn.init.constant_(norm.running_mean, 7.0), nn.init.constant_(norm.running_var, 5.0)
    converted, _ = convert_state_dict(source, model)
    model.load_state_dict(converted, strict=False)
    x = torch.randn(1, 2, 3, 3)
    expected = x * torch.tensor([2.0, 3.0]).view(2, 1, 1) + torch.tensor([0.5, -1.0]).view(2, 1, 1)
    torch.testing.assert_close(norm(x), expected, rtol=1e-6, atol=1e-6)


def test_frozen_statistics_without_epsilon(model: nn.Module) -> None:
    """rsqrt(variance) of the official codes is rsqrt(variance - 1e-5 + 1e-5) of ours."""
    source = {f"backbone.body.stem.bn1.{name}": torch.ones(2) for name in ("weight", "bias", "running_mean", "running_var")}
    converted, report = convert_state_dict(source, WithNorm())
    assert "tianzhi0549/FCOS" in report.source
    torch.testing.assert_close(converted["backbone.bottom_up.stem.conv1.norm.running_var"], torch.full((2,), 1 - 1e-5))


def test_a_file_is_converted_once(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = other_weights(model)
    torch.save(as_adelaidet(state), tmp_path / "weights.pth")
    calls = []

    def counted(*args: Any) -> Any:
        calls.append(args)
        return convert_state_dict(*args)

    for module in (conversion, loading):
        monkeypatch.setattr(module, "convert_state_dict", counted)
    load_weights(model, tmp_path / "weights.pth", strict=True)
    assert len(calls) == 1
    torch.testing.assert_close(dict(model.state_dict()), state)


def part(model: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in other_weights(model).items() if not key.startswith("head.cls_score.")}


@pytest.mark.parametrize("foreign", [False, True])
def test_a_part_that_was_loaded_before_eval_does_not_predict(model: nn.Module, foreign: bool) -> None:
    """As ``DetectionCheckpointer(build_model(cfg)).load(path)`` does, before ``model.eval()``."""
    inputs = random_inputs(1)
    model.eval()(inputs)  # as built, nothing loaded: that is no accident
    state = part(model)
    model.train().load_state_dict(as_adelaidet(state) if foreign else state, strict=False)
    for each in (model, deepcopy(model)):
        with pytest.raises(CheckpointError, match=r"2 are missing or have another shape: head.cls_score.\{weight, bias\}"):
            each.eval()(inputs)
    model.train().load_state_dict(model.head.cls_score.state_dict(prefix="head.cls_score."), strict=False)  # from a second file
    model.eval()(inputs)


def test_training_makes_a_model_predict(model: nn.Module, tmp_path: Path) -> None:
    torch.save(part(model), tmp_path / "part.pth")
    load_weights(model.train(), tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match="head.cls_score"):
        model.eval()(random_inputs(1))
    model.train()(random_inputs(1))
    model.eval()(random_inputs(1))
    load_weights(model.train(), tmp_path / "part.pth")  # the classifier has been trained since
    model.eval()(random_inputs(1))
