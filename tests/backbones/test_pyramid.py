"""The pyramid on any bottom-up network, and its extra levels."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_backbone
from torch.testing import assert_close

from detkit.backbones import LinearP6P7
from detkit.config import ConfigError, get_cfg

IMAGE = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def pyramid_cfg(bottom_up: str = "build_torchvision_backbone", **changed):
    """A pyramid of 8 channels on a small network; ``changed`` are keys of MODEL.FPN."""
    cfg = get_cfg()
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.BACKBONE.NAME = "build_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    if "resnet" not in bottom_up:
        cfg.MODEL.BACKBONE.NORM = "BN"
        cfg.MODEL.BACKBONE.ARCH = "mobilenet_v3_small" if "torchvision" in bottom_up else "resnet18"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.BOTTOM_UP = bottom_up
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    for key, value in changed.items():
        cfg.MODEL.FPN[key] = value
    return cfg


@pytest.mark.parametrize("bottom_up", ["build_resnet_backbone", "build_torchvision_backbone", "build_timm_backbone"])
@torch.no_grad()
def test_any_bottom_up_network_gets_p3_to_p7(bottom_up):
    backbone = build_backbone(pyramid_cfg(bottom_up)).eval()
    maps = backbone(IMAGE)
    assert {name: tuple(feature.shape) for name, feature in maps.items()} == {
        "p3": (1, 8, 8, 12), "p4": (1, 8, 4, 6), "p5": (1, 8, 2, 3), "p6": (1, 8, 1, 2), "p7": (1, 8, 1, 1),
    }  # fmt: skip
    assert [shape.stride for shape in backbone.output_shape().values()] == [8, 16, 32, 64, 128]
    own = {name for name in backbone.state_dict() if not name.startswith("bottom_up.")}
    modules = [f"fpn_{kind}{level}" for kind in ("lateral", "output") for level in (3, 4, 5)] + [
        "top_block.p6",
        "top_block.p7",
    ]
    assert own == {f"{module}.{part}" for module in modules for part in ("weight", "bias")}


@torch.no_grad()
def test_levels_from_c5_equal_detectron2s_retinanet_backbone_key_for_key():
    cfg = pyramid_cfg("build_resnet_backbone", TOP_BLOCK="c5")
    ours = build_backbone(cfg).eval()
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    theirs = build_backbone(cfg).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert_close(ours(IMAGE), theirs(IMAGE), rtol=0, atol=0)


@pytest.mark.parametrize("source", ["p5", "c5"])
@pytest.mark.parametrize("relu", [True, False])
@torch.no_grad()
def test_p6_and_p7_follow_from_the_source_with_and_without_relu(source, relu):
    backbone = build_backbone(pyramid_cfg(TOP_BLOCK=source, RELU_BEFORE_P7=relu)).eval()
    maps = backbone(IMAGE)
    top = backbone.top_block
    p6 = top.p6(maps["p5"] if source == "p5" else backbone.bottom_up(IMAGE)["res5"])
    assert_close(maps["p6"], p6)
    assert_close(maps["p7"], top.p7(p6.relu() if relu else p6))
    assert isinstance(top, LinearP6P7) is not relu
    assert (p6 < 0).any()  # so that the ReLU matters


@torch.no_grad()
def test_p2_to_p5_alone_and_with_a_pooled_p6():
    levels = {"IN_FEATURES": ["res2", "res3", "res4", "res5"]}
    assert list(build_backbone(pyramid_cfg(TOP_BLOCK="none", **levels)).output_shape()) == ["p2", "p3", "p4", "p5"]
    maps = build_backbone(pyramid_cfg(TOP_BLOCK="pool", **levels)).eval()(IMAGE)
    assert_close(maps["p6"], maps["p5"][..., ::2, ::2], rtol=0, atol=0)


@torch.no_grad()
def test_a_pyramid_that_ends_at_stride_16_names_its_levels_by_stride():
    maps = build_backbone(pyramid_cfg(IN_FEATURES=["res3", "res4"])).eval()(IMAGE)
    assert {name: feature.shape[-1] for name, feature in maps.items()} == {"p3": 12, "p4": 6, "p5": 3, "p6": 2}


def test_the_norm_of_the_pyramid():
    backbone = build_backbone(pyramid_cfg(NORM="GN", OUT_CHANNELS=32))
    assert backbone.fpn_lateral3.bias is None and isinstance(backbone.fpn_output5.norm, torch.nn.GroupNorm)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"TOP_BLOCK": "p6"}, r"MODEL.FPN.TOP_BLOCK is 'p6'.*'p5', 'c5'"),
        ({"IN_FEATURES": []}, r"MODEL.FPN.IN_FEATURES is \[\]"),
        ({"BOTTOM_UP": "build_fpn_backbone"}, r"MODEL.FPN.BOTTOM_UP"),
        ({"BOTTOM_UP": "build_resnext"}, r"MODEL.FPN.BOTTOM_UP is 'build_resnext'.*did you mean 'build_resnet_backbone'"),
        ({"IN_FEATURES": ["res3", "res5"]}, r"MODEL.FPN.IN_FEATURES"),
    ],
)
def test_wrong_keys_are_named(changed, message):
    with pytest.raises(ConfigError, match=message):
        build_backbone(pyramid_cfg(**changed))


def test_a_resnet_that_keeps_its_stages_to_itself_names_the_key():
    cfg = pyramid_cfg("build_resnet_backbone")
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    with pytest.raises(ConfigError, match="MODEL.RESNETS.OUT_FEATURES"):
        build_backbone(cfg)
