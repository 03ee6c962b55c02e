"""Deformable stages: which convolutions become deformable, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone
from torch import nn
from torch.testing import assert_close

from detkit.backbones import check_backbone
from detkit.config import ConfigError, get_cfg
from detkit.engine import Trainer
from detkit.layers import DeformConv2dPack

IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def resnet_cfg(builder: str = "build_deformable_resnet_backbone", stages: tuple[str, ...] = ("res3", "res5"), **changed: Any) -> Any:
    """A narrow ResNet-50; ``changed`` are keys of MODEL.RESNETS."""
    cfg = get_cfg()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", "cpu"
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = builder, 0
    node = cfg.MODEL.RESNETS
    node.STEM_OUT_CHANNELS, node.RES2_OUT_CHANNELS, node.WIDTH_PER_GROUP = 8, 16, 8
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    node.DEFORM_ON_PER_STAGE = [stage in stages for stage in node.OUT_FEATURES]
    for key, value in changed.items():
        node[key] = value
    return cfg


def deformable_layers(backbone: nn.Module) -> dict[str, DeformConv2dPack]:
    return {name: module for name, module in backbone.named_modules() if isinstance(module, DeformConv2dPack)}


@pytest.mark.parametrize(("modulated", "groups"), [(False, 1), (True, 2)])
def test_the_named_stages_are_deformable(modulated: bool, groups: int) -> None:
    backbone = build_backbone(resnet_cfg(DEFORM_MODULATED=modulated, DEFORM_NUM_GROUPS=groups))
    layers = deformable_layers(backbone)
    assert list(layers) == [f"res3.{i}.conv2" for i in range(4)] + [f"res5.{i}.conv2" for i in range(3)]
    assert {layer.conv_offset.out_channels for layer in layers.values()} == {groups * (27 if modulated else 18)}
    assert {layer.modulated for layer in layers.values()} == {modulated}
    assert all(isinstance(layer.norm, FrozenBatchNorm2d) and layer.bias is None for layer in layers.values())


@torch.no_grad()
def test_it_starts_as_the_plain_network() -> None:
    torch.manual_seed(0)
    plain = build_backbone(resnet_cfg(stages=())).eval()
    deformable = build_backbone(resnet_cfg()).eval()
    missing, unexpected = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(".conv2.conv_offset." in name for name in missing)
    assert_close(deformable(IMAGE), plain(IMAGE), rtol=1e-4, atol=1e-4)


def test_without_named_stages_it_is_detectron2s() -> None:
    ours = build_backbone(resnet_cfg(stages=()))
    theirs = build_backbone(resnet_cfg("build_resnet_backbone", stages=()))
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_frozen_stages_stay_frozen() -> None:
    cfg = resnet_cfg(NORM="BN")
    cfg.MODEL.BACKBONE.FREEZE_AT = 3
    backbone = build_backbone(cfg)
    assert not any(p.requires_grad for p in backbone.res3.parameters())
    assert isinstance(backbone.res3[0].conv2.norm, FrozenBatchNorm2d)
    assert all(p.requires_grad for p in backbone.res5.parameters())


@pytest.mark.parametrize("bottom_up", ["build_torchvision_backbone", "build_timm_backbone"])
def test_extractors_too(bottom_up: str) -> None:
    cfg = resnet_cfg(bottom_up, stages=("res4",))
    cfg.MODEL.BACKBONE.ARCH, cfg.MODEL.BACKBONE.NORM = "resnet18", "FrozenBN"
    backbone = build_backbone(cfg)
    layers = deformable_layers(backbone)
    assert [name.removeprefix("body.") for name in layers] == [f"layer3.{i}.conv{n}" for i in range(2) for n in (1, 2)]
    sum(feature.sum() for feature in backbone(IMAGE).values()).backward()
    assert all(layer.conv_offset.weight.grad is not None for layer in layers.values())


@BACKBONE_REGISTRY.register()
class OwnBackbone(Backbone):
    """Somebody's backbone that may know what to do with the keys."""


@pytest.mark.parametrize(
    "name", ["build_resnet_backbone", "build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone", "build_fpn_backbone"]
)
def test_detectron2s_builders_are_refused(name: str) -> None:
    cfg = resnet_cfg(name)
    with pytest.raises(ConfigError, match=r"DEFORM_ON_PER_STAGE.*build_deformable_resnet_backbone"):
        check_backbone(cfg)
    with pytest.raises(ConfigError, match="build_deformable_resnet_backbone"):
        Trainer.build_model(cfg)
    cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False] * 4
    check_backbone(cfg)


@pytest.mark.parametrize("name", ["build_deformable_resnet_backbone", "build_timm_backbone", "OwnBackbone"])
def test_other_builders_are_not(name: str) -> None:
    check_backbone(resnet_cfg(name))


def test_basic_blocks_are_refused() -> None:
    with pytest.raises(ConfigError, match="DEFORM_ON_PER_STAGE.*MODEL.RESNETS.DEPTH 18"):
        build_backbone(resnet_cfg(DEPTH=18, RES2_OUT_CHANNELS=64))
