"""torchvision's classifiers as backbones."""

from .base import KeyMap
from .common import resnet_rules

__all__ = ["TORCHVISION_NETWORK", "TORCHVISION_RESNET"]

_CLASSIFIER = ("fc.{param}", "classifier.{...}")

#: a ResNet into Detectron2's
TORCHVISION_RESNET = KeyMap(
    name="torchvision ResNet",
    rules=resnet_rules(),
    ignore=_CLASSIFIER,
    backbone_only=True,
)

#: any network into the backbone of detkit.backbones, which keeps its names
TORCHVISION_NETWORK = KeyMap(
    name="torchvision classifier",
    rules={"{...}": "backbone.bottom_up.{...}"},
    ignore=_CLASSIFIER,
    backbone_only=True,
)
