"""The networks of the papers, by config: outputs, numbers of parameters, and a training step that leaves no parameter without gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.backbone.swin import SwinTransformer
from torch import nn
from torch.testing import assert_close

from detkit.config import ConfigError, get_cfg
from detkit.layers import DeformConv2dPack
from tests.toys.detectors import random_inputs

RESNET = (256, 512, 1024, 2048)
DEFORMABLE = {"RESNETS.DEFORM_ON_PER_STAGE": [False, True, True, True], "RESNETS.DEFORM_MODULATED": True}
RESNET_CLASSIFIER = 2048 * 1000 + 1000


def resnet(depth: int, groups: int = 1, width: int = 64) -> dict[str, Any]:
    """Keys of Detectron2's ResNets, made by our builder, which leaves them as they are without deformable stages."""
    keys = {"BACKBONE.NAME": "build_deformable_resnet_backbone", "RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"]}
    return keys | {"RESNETS.DEPTH": depth, "RESNETS.NUM_GROUPS": groups, "RESNETS.WIDTH_PER_GROUP": width, "RESNETS.NORM": "BN"}


def timm_network(arch: str, **changed: Any) -> dict[str, Any]:
    return {"BACKBONE.NAME": "build_timm_backbone", "BACKBONE.ARCH": arch, "BACKBONE.NORM": "BN"} | changed


MOBILENET = {
    "BACKBONE.NAME": "build_torchvision_backbone",
    "BACKBONE.ARCH": "mobilenet_v2",
    "BACKBONE.NORM": "BN",
    "BACKBONE.LAST_CONV": True,
}

#: name: keys below MODEL, channels, parameters of the whole classifier as published in millions, and those of its part that is left out
NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, ...], float, int]] = {
    # torchvision.models, tables of weights
    "ResNet-101": (resnet(101), RESNET, 44.549160, RESNET_CLASSIFIER),
    "ResNeXt-101-32x8d": (resnet(101, 32, 8), RESNET, 88.791336, RESNET_CLASSIFIER),
    "ResNeXt-101-64x4d": (resnet(101, 64, 4), RESNET, 83.455272, RESNET_CLASSIFIER),
    "MobileNetV2": (MOBILENET, (24, 32, 96, 1280), 3.504872, 1281000),
    "MobileNetV2 of timm": (timm_network("mobilenetv2_100"), (24, 32, 96, 320), 3.504872, 1281000 + 320 * 1280 + 2 * 1280),
    "Swin-T": (timm_network("swin_tiny_patch4_window7_224"), (96, 192, 384, 768), 28.288354, 768 * 1002 + 1000),
    "Swin-S": (timm_network("swin_small_patch4_window7_224"), (96, 192, 384, 768), 49.606258, 768 * 1002 + 1000),
    "Swin-B": (timm_network("swin_base_patch4_window7_224"), (128, 256, 512, 1024), 87.768224, 1024 * 1002 + 1000),
    # PVT v2 (Wang et al., 2022), table 1
    "PVTv2-B2": (timm_network("pvt_v2_b2"), (64, 128, 320, 512), 25.4, 512 * 1001),
    "PVTv2-B5": (timm_network("pvt_v2_b5"), (64, 128, 320, 512), 82.0, 512 * 1001),
    # Res2Net (Gao et al., 2019), table 1: 26w x 4s on 101 layers
    "Res2Net-101": (timm_network("res2net101d"), RESNET, 45.2, RESNET_CLASSIFIER),
}

LARGE = ("Swin-S", "Swin-B", "PVTv2-B5")


def network_cfg(keys: dict[str, Any]) -> Any:
    cfg = get_cfg()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.MODEL.BACKBONE.FREEZE_AT = "", "cpu", 0
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    for key, value in keys.items():
        cfg.merge_from_list([f"MODEL.{key}", value])
    return cfg


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in NETWORKS])
def test_network_has_the_channels_and_parameters_of_its_paper(name: str) -> None:
    keys, channels, millions, classifier = NETWORKS[name]
    with torch.device("meta"):
        backbone = build_backbone(network_cfg(keys))
    shapes = backbone.output_shape()
    assert [(shape.stride, shape.channels) for shape in shapes.values()] == list(zip((4, 8, 16, 32), channels, strict=True))
    total = (sum(p.numel() for p in backbone.parameters()) + classifier) / 1e6
    assert total == pytest.approx(millions, abs=0.05 if millions == round(millions, 1) else 1e-9)


def test_hrnet_with_its_pyramid_has_the_parameters_of_its_fcos() -> None:
    """HRNet/HRNet-FCOS, README: HRNet_W32_5l has 37.3 million, ResNet_50_5l 32.0; the heads and pyramids' convolutions are the same."""
    keys = timm_network("hrnet_w32") | {"BACKBONE.NAME": "build_hrfpn_backbone", "FPN.BOTTOM_UP": "build_timm_backbone"}
    cfg = network_cfg(keys | {"META_ARCHITECTURE": "FCOS", "DEVICE": "meta", "FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"]})
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(37.3, abs=0.05)
    assert {name: shape.stride for name, shape in model.backbone.output_shape().items()} == {f"p{n}": 2**n for n in range(3, 8)}


def detector_cfg(keys: dict[str, Any]) -> Any:
    """FCOS with a narrow head on P3 to P7 of a network."""
    node = {"FPN.BOTTOM_UP": keys["BACKBONE.NAME"], "BACKBONE.NAME": "build_fpn_backbone", "META_ARCHITECTURE": "FCOS"}
    node |= {"FPN.IN_FEATURES": ["res3", "res4", "res5"], "FPN.OUT_CHANNELS": 32, "FCOS.HEAD.CHANNELS": 32, "FCOS.HEAD.NUM_CONVS": 1}
    return network_cfg(keys | node)


def trains_a_step(cfg: Any) -> nn.Module:
    """A parallel training would wait for every parameter that asks for a gradient, so each must get one."""
    torch.manual_seed(0)
    model = build_model(cfg).train()
    losses = model(random_inputs(size=(64, 96)))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    asked = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, grad in asked.items() if grad is None or not grad.isfinite().all()] == []
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_detector_on_the_network_trains_a_step(name: str) -> None:
    trains_a_step(detector_cfg(NETWORKS[name][0]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [resnet(50), resnet(101, 64, 4), timm_network("res2net101d")],
    ids=["ResNet-50", "ResNeXt-101-64x4d", "Res2Net-101"],
)
def test_detector_on_a_deformable_network_trains_a_step(keys: dict[str, Any]) -> None:
    model = trains_a_step(detector_cfg(keys | DEFORMABLE))
    assert any(isinstance(module, DeformConv2dPack) for module in model.backbone.modules())


@pytest.mark.parametrize("arch", ["hrnet_w18_small", "pvt_v2_b0"])
def test_no_parameter_of_a_timm_network_waits_for_a_gradient_in_vain(arch: str) -> None:
    model = trains_a_step(detector_cfg(timm_network(arch)))
    unused = [name for name, p in model.backbone.bottom_up.named_parameters() if not p.requires_grad]
    # what leads to the branch of stride 4 alone, which the pyramid does not take
    assert all("stage4" in name and "fuse_layers.0." in name for name in unused) and bool(unused) == (arch == "hrnet_w18_small")


def test_hrnet_and_its_pyramid_train_a_step() -> None:
    keys = timm_network("hrnet_w18_small") | {"BACKBONE.NAME": "build_hrfpn_backbone", "FPN.BOTTOM_UP": "build_timm_backbone"}
    keys |= {"FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"], "FPN.OUT_CHANNELS": 32}
    model = trains_a_step(network_cfg(keys | {"META_ARCHITECTURE": "FCOS", "FCOS.HEAD.CHANNELS": 32, "FCOS.HEAD.NUM_CONVS": 1}))
    assert all(p.requires_grad for p in model.parameters())


@torch.no_grad()
def test_hrfpn_pools_the_mixed_branches() -> None:
    keys = timm_network("hrnet_w18_small") | {"BACKBONE.NAME": "build_hrfpn_backbone", "FPN.BOTTOM_UP": "build_timm_backbone"}
    cfg = network_cfg(keys | {"FPN.IN_FEATURES": ["res4", "res5"], "FPN.OUT_CHANNELS": 4, "FPN.HRFPN_STRIDE": 1})
    pyramid = build_backbone(cfg).eval()
    assert list(pyramid.output_shape()) == ["p4", "p5", "p6", "p7", "p8"] and pyramid.size_divisibility == 256
    image = torch.rand(1, 3, 256, 256)
    branches = pyramid.bottom_up(image)
    coarse = nn.functional.interpolate(branches["res5"], scale_factor=2, mode="bilinear")
    mixed = pyramid.reduction(torch.cat([branches["res4"], coarse], dim=1))
    levels = pyramid(image)
    assert_close(levels["p4"], pyramid.outputs[0](mixed))
    assert_close(levels["p6"], pyramid.outputs[2](mixed.reshape(1, 4, 4, 4, 4, 4).mean((3, 5))))


@torch.no_grad()
def test_swin_is_detectron2s() -> None:
    """On a size that needs no padding of windows; timm calls the merging of patches by the stage behind it."""
    cfg = network_cfg(timm_network("swin_tiny_patch4_window7_224") | {"BACKBONE.OUT_NORM": True})
    ours = build_backbone(cfg).eval()
    theirs = SwinTransformer(drop_path_rate=0.0).eval()
    for name, p in ours.out_norms.named_parameters():
        nn.init.uniform_(p, 0.5, 1.5)
        theirs.get_parameter(f"norm{int(name[3]) - 2}.{name.split('.')[1]}").copy_(p)
    weights = {}
    for name, value in ours.body.state_dict().items():
        stage, _, rest = name.removeprefix("layers_").partition(".")
        if name.startswith("layers_"):
            name = f"layers.{int(stage) - rest.startswith('downsample')}.{rest}"
        weights[name] = value
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected and all("norm" in name or name.endswith("relative_position_index") for name in missing)
    image = torch.rand(1, 3, 224, 224)
    for mine, other in zip(ours(image).values(), theirs(image).values(), strict=True):
        assert_close(mine, other, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_swin_takes_images_of_any_size() -> None:
    backbone = build_backbone(network_cfg(timm_network("swin_tiny_patch4_window7_224"))).eval()
    maps = backbone(torch.rand(1, 3, 96, 160))
    assert [tuple(x.shape[1:]) for x in maps.values()] == [(96, 24, 40), (192, 12, 20), (384, 6, 10), (768, 3, 5)]


def test_stages_without_a_convolution_to_deform_are_refused() -> None:
    cfg = network_cfg(timm_network("convnext_atto") | DEFORMABLE)
    with pytest.raises(ConfigError, match=r"'convnext_atto' has no 3x3 convolution in res3"):
        build_backbone(cfg)
