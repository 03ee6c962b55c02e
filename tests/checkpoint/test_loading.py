"""Loading weights into models: reports, strictness, Detectron2's machinery."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import Tensor, nn

from detkit.checkpoint import CheckpointError, conversion, convert_state_dict, load_weights, loading
from tests.toys.detectors import tiny_cfg


@pytest.fixture
def model() -> nn.Module:
    return build_model(tiny_cfg())


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


def test_frozen_statistics_without_epsilon(model: nn.Module) -> None:
    """rsqrt(variance) of the official codes is rsqrt(variance - 1e-5 + 1e-5) of ours."""

    class WithNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.ModuleDict({"bottom_up": nn.ModuleDict({"stem": nn.ModuleDict({"conv1": nn.ModuleDict()})})})
            self.backbone["bottom_up"]["stem"]["conv1"]["norm"] = nn.BatchNorm2d(2)

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
