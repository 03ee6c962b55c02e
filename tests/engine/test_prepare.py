"""The forms in which networks are trained and detect give what the network gives, and leave it as it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import build_model
from torch import nn
from torch.testing import assert_close

from detkit.checkpoint import CheckpointFolder
from detkit.engine import prepare_for_inference, prepare_for_training
from detkit.engine.ema import WeightAverage
from tests.toys.detectors import random_inputs, tiny_cfg, tiny_sparse_cfg

METHODS = ("FCOS", "ATSS", "DW", "LSNet", "SparseRCNN")


def cfg_of(name: str) -> Any:
    cfg = tiny_sparse_cfg() if name == "SparseRCNN" else tiny_cfg(name)
    cfg.MODEL.MEMORY_FORMAT, cfg.TEST.FOLD_NORMS = "contiguous", False
    return cfg


def with_norms(model: nn.Module) -> nn.Module:
    """Gives the toy's first convolution a frozen norm."""
    norm = FrozenBatchNorm2d(32)
    norm.running_var.uniform_(0.5, 2.0)
    stem = Conv2d(3, 32, 3, stride=8, padding=1, norm=norm)
    stem.load_state_dict(model.backbone.stem.state_dict(), strict=False)
    model.backbone.stem = stem
    return model


def inputs_of(name: str) -> list[dict[str, Any]]:
    data = random_inputs()
    for item in data:
        if name == "LSNet":
            item["instances"].gt_landmarks = torch.rand(3, 4, 3) * 60 + 1
    return data


@torch.no_grad()
def raw(model: Any, images: torch.Tensor) -> list[torch.Tensor]:
    sizes = torch.tensor([images.shape[-2:]] * len(images)).float()
    return [value.float() for value in model.raw_tensors(images, sizes).values()]


@pytest.mark.parametrize("name", METHODS)
def test_detecting_in_every_form(name: str) -> None:
    torch.manual_seed(0)
    cfg = cfg_of(name)
    model = with_norms(build_model(cfg))
    assert model.training
    state, images = copy.deepcopy(model.state_dict()), torch.randn(2, 3, 96, 128)
    assert prepare_for_inference(cfg, model) is model  # nothing is to be done
    expected = raw(model.eval(), images)
    model.train()
    for layout, fold, precision in (("auto", True, "float32"), ("contiguous", True, "float32"), ("channels_last", True, "bfloat16")):
        cfg.MODEL.MEMORY_FORMAT, cfg.TEST.FOLD_NORMS, cfg.TEST.PRECISION = layout, fold, precision
        prepared: Any = prepare_for_inference(cfg, model)
        assert prepared is not model and not prepared.training and model.training
        assert prepared.backbone.stem.norm is None and prepared.pixel_mean is model.pixel_mean
        last = prepared.backbone.down[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert last == (layout != "contiguous")
        found = raw(prepared, images)
        assert len(prepared(inputs_of(name))) == 2
        assert not all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))  # it is computed in another way
        if precision == "float32":
            assert_close(found, expected, rtol=1e-3, atol=1e-4)
        else:  # a single box of random weights may be anywhere
            assert all(float((a - b).abs().median()) <= 0.1 * float(b.abs().median()) + 1e-3 for a, b in zip(found, expected, strict=True))
    assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert all(p.is_contiguous() for p in model.parameters()) and not list(vars(model).keys() & {"raw_outputs", "forward"})


@pytest.mark.parametrize("name", METHODS)
def test_a_step_in_channels_last_and_its_checkpoint(name: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    cfg = cfg_of(name)
    plain: Any = prepare_for_training(cfg, build_model(cfg).train())
    assert plain.backbone.stem.weight.is_contiguous()
    cfg.MODEL.MEMORY_FORMAT = "channels_last"
    model: Any = prepare_for_training(cfg, copy.deepcopy(plain))
    average = WeightAverage(model, 0.5)
    data = inputs_of(name)
    for each in (plain, model):
        torch.manual_seed(1)
        sum(each(data).values()).backward()
    gradients = [{name: p.grad for name, p in each.named_parameters()} for each in (model, plain)]
    assert_close(*gradients, rtol=1e-3, atol=1e-3)
    average.update(model)
    for each in (model, average.model):
        assert each.backbone.stem.weight.is_contiguous(memory_format=torch.channels_last)
    path = CheckpointFolder(tmp_path).save("model_final", {"model": model.state_dict(), "n": [1, torch.ones(2, 3).t()]})
    saved = torch.load(path, weights_only=True)
    assert all(value.is_contiguous() for value in (*saved["model"].values(), saved["n"][1]))
    assert_close(saved["model"], dict(model.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("capability", "groups", "last"), [("AVX2", 1, False), ("AVX2", 32, True), ("AVX512", 1, True), ("DEFAULT", 1, True)]
)
def test_a_processor_trains_in_the_layout_in_which_its_gradients_are_fast(
    capability: str, groups: int, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    cfg = cfg_of("FCOS")
    cfg.MODEL.MEMORY_FORMAT = "auto"
    model: Any = build_model(cfg)
    model.backbone.down[0] = nn.Conv2d(32, 32, 3, stride=2, padding=1, groups=groups)
    trained: Any = prepare_for_training(cfg, model)
    assert trained.backbone.stem.weight.is_contiguous(memory_format=torch.channels_last) == last
    prepared: Any = prepare_for_inference(cfg, model)
    assert prepared.backbone.stem.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("supported", [True, False])
def test_a_processor_that_emulates_bfloat16_is_named(
    supported: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    cfg = cfg_of("FCOS")
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE, cfg.TEST.PRECISION = True, "bfloat16", "bfloat16"
    model = build_model(cfg)
    prepare_for_training(cfg, model)
    prepare_for_inference(cfg, model)
    said = [message for message in caplog.messages if "no instructions for bfloat16" in message]
    assert [message.split(": ")[1] for message in said] == ([] if supported else ["SOLVER.AMP.ENABLED False.", "TEST.PRECISION float32."])


def test_convolutions_of_one_thread_are_those_of_onednn_and_others_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    cfg = cfg_of("FCOS")
    cfg.MODEL.MEMORY_FORMAT = "channels_last"
    model: Any = prepare_for_training(cfg, with_norms(build_model(cfg)))
    prepared: Any = prepare_for_inference(cfg, model)
    convolve, calls = torch.mkldnn_convolution, []
    monkeypatch.setattr(torch, "mkldnn_convolution", lambda *args: calls.append(args) or convolve(*args))
    images = torch.randn(2, 3, 96, 128)
    for threads, used in ((1, True), (2, False)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        calls.clear()
        assert_close(raw(prepared, images), raw(model.eval(), images), rtol=1e-3, atol=1e-4)
        assert (len(calls) > 10) is used
    calls.clear()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert prepared.backbone.stem(images[:0]).shape == (0, 32, 12, 16) and prepared.backbone.stem(images).requires_grad and not calls
