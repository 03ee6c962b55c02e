"""torchvision's and timm's networks as feature extractors: the maps are theirs, and freezing and norms do what they say."""

from __future__ import annotations

import logging

import pytest
import timm
import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from detectron2.structures import ImageList
from torch import nn
from torch.testing import assert_close

from detkit.backbones import FeatureExtractor, TimmBackbone, TorchvisionBackbone
from detkit.config import ConfigError, get_cfg

STAGES = ("res2", "res3", "res4", "res5")
IMAGE = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def extractor_cfg(builder: str, arch: str, **changed):
    cfg = get_cfg()
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.BACKBONE.NAME = builder
    cfg.MODEL.BACKBONE.ARCH = arch
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.BACKBONE.NORM = "BN"
    for key, value in changed.items():
        cfg.MODEL.BACKBONE[key] = value
    return cfg


@pytest.fixture(scope="module")
def mobilenet() -> nn.Module:
    """MobileNetV2 whose batch norms are not the identity."""
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v2(weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize(
    "arch, channels",
    [
        ("mobilenet_v2", (24, 32, 96, 320)),
        ("mobilenet_v3_small", (16, 24, 48, 96)),
        ("resnet18", (64, 128, 256, 512)),
        ("regnet_y_400mf", (48, 104, 208, 440)),
        ("efficientnet_b0", (24, 40, 112, 320)),
    ],
)
def test_torchvision_stages_have_the_strides_and_channels_they_announce(arch, channels):
    backbone = build_backbone(extractor_cfg("build_torchvision_backbone", arch)).eval()
    assert_maps(backbone, dict(zip(STAGES, channels, strict=True)))


@pytest.mark.parametrize(
    "arch, channels",
    [
        ("resnet18", (64, 128, 256, 512)),
        ("mobilenetv2_100", (24, 32, 96, 320)),
        ("convnext_atto", (40, 80, 160, 320)),
        ("hrnet_w18_small", (16, 32, 64, 128)),
    ],
)
def test_timm_stages_have_the_strides_and_channels_they_announce(arch, channels):
    backbone = build_backbone(extractor_cfg("build_timm_backbone", arch)).eval()
    assert_maps(backbone, dict(zip(STAGES, channels, strict=True)))


@torch.no_grad()
def assert_maps(backbone: FeatureExtractor, channels: dict[str, int]) -> None:
    shapes = backbone.output_shape()
    assert {name: shape.channels for name, shape in shapes.items()} == channels
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32]
    maps = backbone(IMAGE)
    assert list(maps) == list(shapes)
    for name, feature in maps.items():
        stride = shapes[name].stride
        assert feature.shape == (2, channels[name], 64 // stride, 96 // stride)


@torch.no_grad()
def test_the_maps_are_those_of_the_torchvision_network(mobilenet):
    x, expected = IMAGE, {}
    for index, unit in enumerate(mobilenet.features):
        x = unit(x)
        expected[index] = x
    narrow = TorchvisionBackbone(network=mobilenet).eval()(IMAGE)
    assert_close(narrow, {"res2": expected[3], "res3": expected[6], "res4": expected[13], "res5": expected[17]}, rtol=0, atol=0)
    wide = TorchvisionBackbone(network=mobilenet, out_features=("res5",), last_conv=True).eval()(IMAGE)
    assert_close(wide, {"res5": expected[18]}, rtol=0, atol=0)


@torch.no_grad()
def test_the_last_map_of_a_torchvision_resnet_leads_to_its_logits():
    network = torchvision.models.resnet18(weights=None).eval()
    logits = network(IMAGE)
    last = TorchvisionBackbone(network=network, out_features=("res5",)).eval()(IMAGE)["res5"]
    assert_close(network.fc(last.mean((2, 3))), logits)


@torch.no_grad()
def test_the_maps_are_those_of_the_timm_network():
    network = timm.create_model("resnet18", features_only=True, out_indices=(2, 3)).eval()
    expected = network(IMAGE)
    assert_close(TimmBackbone(network=network).eval()(IMAGE), dict(zip(("res3", "res4"), expected, strict=True)), rtol=0, atol=0)


def test_units_beyond_the_coarsest_output_are_dropped(mobilenet):
    names = dict(TorchvisionBackbone(network=mobilenet, out_features=("res3",)).named_parameters())
    assert "features.6.conv.0.0.weight" in names
    assert not any(name.startswith(("features.7.", "classifier")) for name in names)


def test_the_config_keeps_only_what_the_pyramid_takes():
    cfg = extractor_cfg("build_timm_backbone", "resnet18")
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4"]
    backbone = build_backbone(cfg)
    assert list(backbone.output_shape()) == ["res3", "res4"]
    assert not any("layer4" in name for name in backbone.state_dict())


@pytest.mark.parametrize(
    "builder, arch, frozen, free",
    [
        ("build_torchvision_backbone", "mobilenet_v2", ("features.0.", "features.3."), ("features.4.",)),
        ("build_torchvision_backbone", "resnet18", ("conv1.", "layer1."), ("layer2.", "layer3.", "layer4.")),
        ("build_timm_backbone", "resnet18", ("body.conv1.", "body.layer1."), ("body.layer2.", "body.layer4.")),
        ("build_timm_backbone", "mobilenetv2_100", ("body.conv_stem.", "body.blocks.1."), ("body.blocks.2.",)),
    ],
)
def test_freeze_at_2_stops_the_gradient_up_to_stride_4(builder, arch, frozen, free):
    backbone = build_backbone(extractor_cfg(builder, arch, FREEZE_AT=2)).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    sum(feature.square().mean() for feature in backbone(IMAGE).values()).backward()
    assert not any(name.startswith(frozen) for name, p in backbone.named_parameters() if p.grad is not None)
    assert all(p.grad is not None for name, p in backbone.named_parameters() if name.startswith(free))
    after = backbone.state_dict()
    for name in before:  # nor do the statistics of frozen norms move
        if name.startswith(frozen):
            assert_close(after[name], before[name], rtol=0, atol=0)
    assert any(name.startswith(free) and not torch.equal(after[name], before[name]) for name in before)


def test_freeze_at_0_freezes_nothing_and_1_the_stem():
    assert all(p.requires_grad for p in build_backbone(extractor_cfg("build_torchvision_backbone", "resnet18")).parameters())
    stem = build_backbone(extractor_cfg("build_torchvision_backbone", "resnet18", FREEZE_AT=1))
    still = {name for name, p in stem.named_parameters() if not p.requires_grad}
    assert still == {"conv1.weight"} and isinstance(stem.bn1, FrozenBatchNorm2d)


@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_frozen_norms_compute_what_batch_norms_compute_in_evaluation(source, mobilenet):
    torch.manual_seed(0)
    if source == "torchvision":
        backbone: FeatureExtractor = TorchvisionBackbone(network=mobilenet)
    else:
        backbone = TimmBackbone(network=timm.create_model("mobilenetv2_100", features_only=True, out_indices=(1, 4)))
        for name, buffer in backbone.named_buffers():
            if name.endswith("running_mean"):
                nn.init.uniform_(buffer, -0.5, 0.5)
    backbone.eval()
    expected = backbone(IMAGE)
    names = set(backbone.state_dict())
    backbone.set_norm("FrozenBN")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    assert {name for name in names if "num_batches" not in name} <= set(backbone.state_dict())
    backbone.train()
    assert_close(backbone(IMAGE), expected, rtol=1e-4, atol=1e-4)  # the two multiply in another order


def test_norms_can_be_synchronized_and_nothing_else():
    for builder, arch in (("build_torchvision_backbone", "mobilenet_v2"), ("build_timm_backbone", "resnet18")):
        backbone = build_backbone(extractor_cfg(builder, arch, NORM="SyncBN"))
        norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        assert norms and all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    with pytest.raises(ConfigError, match=r"MODEL.BACKBONE.NORM.*'GN'"):
        build_backbone(extractor_cfg("build_torchvision_backbone", "resnet18", NORM="GN"))


@torch.no_grad()
def test_images_of_any_size_are_padded_to_what_the_pyramid_divides():
    cfg = extractor_cfg("build_torchvision_backbone", "mobilenet_v3_small")
    cfg.MODEL.FPN.BOTTOM_UP, cfg.MODEL.BACKBONE.NAME = cfg.MODEL.BACKBONE.NAME, "build_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    backbone = build_backbone(cfg).eval()
    images = ImageList.from_tensors([torch.rand(3, 70, 45), torch.rand(3, 50, 99)], backbone.size_divisibility)
    maps = backbone(images.tensor)
    assert {name: tuple(m.shape[2:]) for name, m in maps.items()} == {
        "p3": (12, 16), "p4": (6, 8), "p5": (3, 4), "p6": (2, 2), "p7": (1, 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    "builder, arch, features, message",
    [
        ("build_torchvision_backbone", "mobilnet_v2", (), r"is 'mobilnet_v2'.*80 names.*nearest is 'mobilenet_v2'"),
        ("build_torchvision_backbone", "swin_t", (), r"\(N, C, H, W\)"),
        ("build_torchvision_backbone", "googlenet", (), r"no plain sequence"),
        ("build_torchvision_backbone", "resnet18", ("res3", "res7"), r"no res7; it has res1, res2"),
        ("build_timm_backbone", "resnet-18", (), r"is 'resnet-18'.*nearest is 'resnet18'"),
        ("build_timm_backbone", "convnext_atto", ("res1",), r"no res1; it has res2"),
    ],
)
def test_networks_that_cannot_be_the_backbone_are_named_with_the_key(builder, arch, features, message):
    cfg = extractor_cfg(builder, arch)
    cfg.MODEL.FPN.IN_FEATURES = list(features)
    with pytest.raises(ConfigError, match=message) as error:
        build_backbone(cfg)
    assert "MODEL.BACKBONE.ARCH" in str(error.value)


def test_freezing_random_weights_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        build_backbone(extractor_cfg("build_torchvision_backbone", "resnet18", FREEZE_AT=2))
    assert "random weights" in caplog.text
