"""torchvision's classifiers as backbones."""

from .base import KeyMap

__all__ = ["TORCHVISION_NETWORK", "TORCHVISION_RESNET"]

_CLASSIFIER = ("fc.{param}", "classifier.{...}")

#: a ResNet into Detectron2's
TORCHVISION_RESNET = KeyMap(
    name="torchvision ResNet",
    rules={
        "conv1.{param}": "backbone.bottom_up.stem.conv1.{param}",
        "bn1.{param}": "backbone.bottom_up.stem.conv1.norm.{param}",
        "layer{s}.{b}.conv{n}.{param}": "backbone.bottom_up.res{s+1}.{b}.conv{n}.{param}",
        "layer{s}.{b}.bn{n}.{param}": "backbone.bottom_up.res{s+1}.{b}.conv{n}.norm.{param}",
        "layer{s}.{b}.downsample.0.{param}": "backbone.bottom_up.res{s+1}.{b}.shortcut.{param}",
        "layer{s}.{b}.downsample.1.{param}": "backbone.bottom_up.res{s+1}.{b}.shortcut.norm.{param}",
    },
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
