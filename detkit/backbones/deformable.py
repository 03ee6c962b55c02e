"""Backbones with deformable convolutions in the stages that ``MODEL.RESNETS.DEFORM_ON_PER_STAGE`` names, without compiled code.

The keys are Detectron2's: ``DEFORM_ON_PER_STAGE`` (res2 to res5), ``DEFORM_MODULATED`` (masks: version 2), ``DEFORM_NUM_GROUPS``. They
hold for :func:`build_deformable_resnet_backbone` and for the feature extractors of torchvision and timm.
"""

from __future__ import annotations

from collections.abc import Iterable

from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import ResNet, build_resnet_backbone
from torch import nn

from detkit.config import ConfigError, Section
from detkit.config.backbones import BACKBONE_LIMITS
from detkit.layers import DeformConv2dPack

__all__ = ["PYRAMIDS", "build_deformable_resnet_backbone", "check_backbone", "deform_units", "deformable_stages"]

STAGES = ("res2", "res3", "res4", "res5")
#: builders that stand on another one, MODEL.FPN.BOTTOM_UP
PYRAMIDS = ("build_fpn_backbone", "build_hrfpn_backbone")


def deformable_stages(cfg: CfgNode) -> tuple[str, ...]:
    """Names of the stages that the config makes deformable."""
    return tuple(name for name, on in zip(STAGES, cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE, strict=True) if on)


def deform_units(network: nn.Module, units: Iterable[str], cfg: CfgNode) -> int:
    """Makes every 3x3 convolution of these parts of a network deformable, in place; their weights stay.

    Returns:
        how many there are.
    """
    node = cfg.MODEL.RESNETS
    found = {
        name: conv
        for unit in units
        for name, conv in network.get_submodule(unit).named_modules(prefix=unit)
        if type(conv) in (nn.Conv2d, Conv2d) and conv.kernel_size == (3, 3)
    }
    for name, conv in found.items():
        layer = DeformConv2dPack.from_conv(conv, modulated=node.DEFORM_MODULATED, offset_groups=node.DEFORM_NUM_GROUPS)
        network.set_submodule(name, layer)
    return len(found)


@BACKBONE_REGISTRY.register()
def build_deformable_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Detectron2's ResNet or ResNeXt with deformable 3x3 convolutions in the stages that the config names (DCN v1, section 3.1).

    State-dict keys are those of ``build_resnet_backbone`` and, of each deformable layer, ``conv2.conv_offset``.

    Raises:
        ConfigError: depth 18 or 34, whose blocks Detectron2 does not make deformable either.
    """
    _check_resnet(Section(cfg, "MODEL.RESNETS"))
    plain = cfg.clone()
    plain.defrost()
    plain.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False] * len(STAGES)
    resnet = build_resnet_backbone(plain, input_shape)
    deform_units(resnet, deformable_stages(cfg), cfg)
    return resnet.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)


def check_backbone(cfg: CfgNode) -> None:
    """Checks the keys of backbone and pyramid, before they are built.

    Raises:
        ConfigError: a value that cannot be, a key that the chosen backbone does not read, or deformable stages with a builder of
            Detectron2's, which would need its compiled operators.
    """
    model = Section(cfg, "MODEL")
    model.check({key: limit for key, limit in BACKBONE_LIMITS.items() if key in cfg.MODEL or "." in key})
    if len(cfg.MODEL.PIXEL_MEAN) != len(cfg.MODEL.PIXEL_STD):
        raise model.refusal("PIXEL_STD", f"as long as MODEL.PIXEL_MEAN, {len(cfg.MODEL.PIXEL_MEAN)}")
    if "GN" in (cfg.MODEL.FPN.NORM, cfg.MODEL.FPN.TOP_BLOCK_NORM) and cfg.MODEL.FPN.OUT_CHANNELS % 32:
        raise model.refusal("FPN.OUT_CHANNELS", "divisible by 32 for group norm")
    above = cfg.MODEL.BACKBONE.NAME in PYRAMIDS
    key = "FPN.BOTTOM_UP" if above else "BACKBONE.NAME"
    model.check({key: sorted(name for name, _ in BACKBONE_REGISTRY if name not in PYRAMIDS)})
    builder = model.value(key)
    theirs = BACKBONE_REGISTRY.get(builder).__module__.startswith("detectron2.")
    if theirs or builder == "build_deformable_resnet_backbone":
        model.refuse_unread([f"BACKBONE.{name}" for name in ("ARCH", "NORM", "WEIGHTS", "LAST_CONV", "OUT_NORM")], builder)
        _check_resnet(model.RESNETS)
    if deformable_stages(cfg) and theirs:
        raise ConfigError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE asks for deformable convolutions, which MODEL.{key} '{builder}' makes with Detectron2's "
            "compiled operators. Set MODEL.BACKBONE.NAME build_fpn_backbone and MODEL.FPN.BOTTOM_UP build_deformable_resnet_backbone (with "
            "MODEL.FPN.TOP_BLOCK for the levels above), or for a ResNet without FPN MODEL.BACKBONE.NAME build_deformable_resnet_backbone."
        )


def _check_resnet(node: Section) -> None:
    """What Detectron2's ResNets of basic blocks cannot be."""
    if node.DEPTH > 34:
        return
    for key, needed in (("RES2_OUT_CHANNELS", 64), ("RES5_DILATION", 1), ("NUM_GROUPS", 1), ("DEFORM_ON_PER_STAGE", [False] * 4)):
        if node.value(key) != needed:
            raise node.refusal(key, f"{needed} for MODEL.RESNETS.DEPTH {node.DEPTH}")
