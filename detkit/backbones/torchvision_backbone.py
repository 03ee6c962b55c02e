"""Feature extractors from torchvision's classification networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn

from detkit.config import ConfigError, Section

from .extractor import NORMS, FeatureExtractor, feature_name, named_units, probe_image, stride_of
from .pretrained import finish_extractor

__all__ = ["TorchvisionBackbone", "build_torchvision_backbone"]


class TorchvisionBackbone(FeatureExtractor):
    """The convolutional part of a torchvision classification network that is a plain sequence of units.

    That holds for ResNet, ResNeXt, RegNet, MobileNetV2/V3, EfficientNet, MNASNet, ShuffleNetV2, ConvNeXt, DenseNet and VGG. Each output is
    that of the last unit of its stride. Parameters keep their torchvision names; units beyond the coarsest output are dropped.

    Args:
        network: from ``torchvision.models``; its modules are used, not copied.
        out_features: outputs wanted, of ``res1`` to ``res5``.
        last_conv: keep the 1x1 convolution by which MobileNets and EfficientNets widen the last stage for the classifier. MobileNetV2's
            ``res5`` has 320 channels without it, as in timm, and 1280 with it, as in torchvision's detectors and mmdetection.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        last_conv: bool = False,
    ) -> None:
        super().__init__()
        units = dict(_trunk(network, last_conv=last_conv))
        strides, channels = _probe(network, units)
        last_of_stage = {feature_name(stride): name for name, stride in strides.items()}
        unknown = sorted(set(out_features) - set(last_of_stage))
        if unknown:
            raise ValueError(f"{type(network).__name__} has no {', '.join(unknown)}; it has {', '.join(last_of_stage)}.")
        self._feature_of_unit = {unit: name for name, unit in last_of_stage.items() if name in out_features}

        names = list(units)
        names = names[: max(names.index(unit) for unit in self._feature_of_unit) + 1]
        for name in names:
            self._adopt(name, units[name])
        self._set_outputs(
            {feature: (strides[unit], channels[unit]) for unit, feature in self._feature_of_unit.items()},
            {name: strides[name] for name in names},
        )

    def _adopt(self, name: str, unit: nn.Module) -> None:
        """Registers a unit under the dotted name that it has in torchvision."""
        container, _, child = name.rpartition(".")
        if container and container not in self._modules:
            self.add_module(container, nn.Module())
        self.get_submodule(container).add_module(child, unit)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps of normalized images (N, 3, H, W), fine to coarse."""
        outputs = {}
        for name in self._unit_strides:
            x = self.get_submodule(name)(x)
            if name in self._feature_of_unit:
                outputs[self._feature_of_unit[name]] = x
        return outputs


def _trunk(network: nn.Module, *, last_conv: bool) -> Iterator[tuple[str, nn.Module]]:
    """Units up to the pooling or classifier, without the 1x1 convolution that widens for the classifier unless ``last_conv``."""
    units = []
    for name, unit in named_units(network):
        if isinstance(unit, nn.AdaptiveAvgPool2d | nn.Dropout | nn.Linear):
            break
        units.append((name, unit))
    if units and not last_conv and _is_pointwise(units[-1][1]):
        units.pop()
    yield from units


def _is_pointwise(unit: nn.Module) -> bool:
    """Whether a unit is convolution, norm and activation with a 1x1 kernel."""
    first = next(unit.children(), None) if isinstance(unit, nn.Sequential) else None
    return isinstance(first, nn.Conv2d) and first.kernel_size == (1, 1)


@torch.no_grad()
def _probe(network: nn.Module, units: dict[str, nn.Module]) -> tuple[dict[str, int], dict[str, int]]:
    """Stride and channels of the output of each unit when they run one after the other."""
    was_training = network.training
    network.eval()
    x = probe_image(network)
    strides, channels = {}, {}
    for name, unit in units.items():
        where = f"'{name}' of torchvision's {type(network).__name__}"
        try:
            x = unit(x)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{where} does not follow from the unit before it; this network is no plain sequence: {error}") from error
        strides[name], channels[name] = stride_of(x, where), x.shape[1]
    network.train(was_training)
    return strides, channels


@BACKBONE_REGISTRY.register()
def build_torchvision_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> TorchvisionBackbone:
    """The torchvision network ``MODEL.BACKBONE.ARCH`` with the weights, norm and freezing that ``MODEL.BACKBONE`` asks for."""
    node = Section(cfg, "MODEL.BACKBONE")
    node.check({"NORM": NORMS, "ARCH": torchvision.models.list_models(module=torchvision.models)})
    node.refuse_unread(["OUT_NORM"], "build_torchvision_backbone")
    arch = node.ARCH
    network = torchvision.models.get_model(arch, weights=None)
    try:
        backbone = TorchvisionBackbone(
            network=network,
            out_features=tuple(cfg.MODEL.FPN.IN_FEATURES) or ("res2", "res3", "res4", "res5"),
            last_conv=cfg.MODEL.BACKBONE.LAST_CONV,
        )
    except ValueError as error:
        raise ConfigError(f"MODEL.BACKBONE.ARCH '{arch}' cannot be the backbone: {error}") from error
    finish_extractor(backbone, cfg)
    return backbone
