"""Backbones beside Detectron2's own: torchvision's and timm's networks as feature extractors, deformable ResNets, pyramids on any of them.

Importing this package registers ``build_torchvision_backbone``, ``build_timm_backbone``, ``build_deformable_resnet_backbone``,
``build_fpn_backbone`` and ``build_hrfpn_backbone`` in Detectron2's ``BACKBONE_REGISTRY``. The keys stand in :mod:`detkit.config.backbones`.
"""

from .deformable import build_deformable_resnet_backbone, check_backbone
from .extractor import FeatureExtractor
from .hrfpn import HRFPN, build_hrfpn_backbone
from .levels import levels_named
from .pyramid import LinearP6P7, build_fpn_backbone
from .timm_backbone import TimmBackbone, build_timm_backbone
from .torchvision_backbone import TorchvisionBackbone, build_torchvision_backbone

__all__ = [
    "HRFPN",
    "FeatureExtractor",
    "LinearP6P7",
    "TimmBackbone",
    "TorchvisionBackbone",
    "build_deformable_resnet_backbone",
    "build_fpn_backbone",
    "build_hrfpn_backbone",
    "build_timm_backbone",
    "build_torchvision_backbone",
    "check_backbone",
    "levels_named",
]
