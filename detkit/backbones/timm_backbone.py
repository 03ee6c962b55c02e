"""Feature extractors from timm's networks."""

from __future__ import annotations

import functools
from typing import Any

import timm
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from timm.layers import LayerNorm2d, convert_sync_batchnorm, freeze_batch_norm_2d
from torch import Tensor, nn

from detkit.config import ConfigError, Section

from .extractor import NORMS, FeatureExtractor, feature_name, named_units, probe_image, stride_of
from .pretrained import finish_extractor

__all__ = ["TimmBackbone", "build_timm_backbone"]


class TimmBackbone(FeatureExtractor):
    """A timm network that gives feature maps. Its parameters keep timm's names, below ``body.``.

    Args:
        network: as ``timm.create_model(name, features_only=True, out_indices=...)`` makes it. Every map that it gives becomes an output,
            with channels first. Parameters that no output depends on (branches of an HRNet) stop requiring a gradient, which parallel
            training would wait for.
        out_norm: give each output a LayerNorm over its channels, as the detectors on Swin have.
    """

    def __init__(self, *, network: nn.Module, out_norm: bool = False) -> None:
        super().__init__()
        self.body = network
        self._channels_last = str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")
        self.out_norms: nn.ModuleDict | None = None
        maps, unit_strides = self._probe()
        where = f"timm's {type(network).__name__}"
        strides = [stride_of(feature, where) for feature in maps]
        self._set_outputs({feature_name(s): (s, feature.shape[1]) for s, feature in zip(strides, maps, strict=True)}, unit_strides)
        if out_norm:
            self.out_norms = nn.ModuleDict({name: LayerNorm2d(channels) for name, channels in self._out_feature_channels.items()})

    @torch.enable_grad()
    def _probe(self) -> tuple[list[Tensor], dict[str, int]]:
        """The maps of an empty image, and the stride of every unit in running order. Finds the parameters that they do not depend on."""
        strides: dict[str, int] = {}

        def note(name: str, _module: nn.Module, _inputs: object, output: object) -> None:
            last = isinstance(output, Tensor) and output.dim() == 4 and output.shape[1] == output.shape[2] != output.shape[3]
            strides[name] = stride_of(output.movedim(3, 1) if last else output, f"'{name}' of the network")  # type: ignore[attr-defined]

        hooks = [unit.register_forward_hook(functools.partial(note, f"body.{name}")) for name, unit in named_units(self.body)]
        was_training = self.body.training
        self.body.eval()
        maps = [self._channels_first(feature) for feature in self.body(probe_image(self.body))]
        self.body.train(was_training)
        for hook in hooks:
            hook.remove()
        parameters = [p for p in self.body.parameters() if p.requires_grad]
        gradients = torch.autograd.grad([feature.sum() for feature in maps], parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)
        return maps, strides

    def _channels_first(self, output: Tensor) -> Tensor:
        return output.movedim(3, 1) if self._channels_last else output

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps of normalized images (N, 3, H, W), fine to coarse."""
        maps = {name: self._channels_first(feature) for name, feature in zip(self._out_features, self.body(x), strict=True)}
        if self.out_norms is None:
            return maps
        return {name: norm(maps[name]) for name, norm in self.out_norms.items()}

    # timm fuses norm and activation in classes of its own, which only its own converters know

    @staticmethod
    def _frozen(module: nn.Module) -> nn.Module:
        return freeze_batch_norm_2d(module)

    @staticmethod
    def _synchronized(module: nn.Module) -> nn.Module:
        return convert_sync_batchnorm(module)


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> TimmBackbone:
    """The timm network ``MODEL.BACKBONE.ARCH`` with the weights, norm and freezing that ``MODEL.BACKBONE`` asks for."""
    node = Section(cfg, "MODEL.BACKBONE")
    node.check({"NORM": NORMS, "ARCH": timm.list_models()})
    node.refuse_unread(["LAST_CONV"], "build_timm_backbone")
    arch = node.ARCH
    try:
        backbone = TimmBackbone(network=_create(arch, tuple(cfg.MODEL.FPN.IN_FEATURES)), out_norm=cfg.MODEL.BACKBONE.OUT_NORM)
    except (ValueError, AssertionError, RuntimeError) as error:
        raise ConfigError(f"MODEL.BACKBONE.ARCH '{arch}' cannot be the backbone: {error}") from error
    finish_extractor(backbone, cfg)
    return backbone


def _create(arch: str, wanted: tuple[str, ...]) -> nn.Module:
    """The network giving the wanted maps alone (all from stride 4 on if none are named), random weights."""
    options = {"features_only": True} | _options(arch)
    with torch.device("meta"):
        info: Any = timm.create_model(arch, **options).feature_info
    index_of = {feature_name(stride): index for stride, index in zip(info.reduction(), info.out_indices, strict=True)}
    wanted = wanted or tuple(name for name in index_of if name >= "res2")
    unknown = sorted(set(wanted) - set(index_of))
    if unknown:
        raise ValueError(f"it has no {', '.join(unknown)}; it has {', '.join(index_of)}")
    return timm.create_model(arch, **options, out_indices=sorted(index_of[name] for name in wanted))


def _options(arch: str) -> dict[str, Any]:
    """What some families need to serve a detector as in their papers."""
    if arch.startswith("hrnet"):
        return {"feature_location": ""}  # the branches, as in HRNet's detectors, without the classifier's blocks behind them
    if arch.startswith("swin_"):
        # images of any size; windows padded and shifted at every stage, as in Swin's detectors
        return {"strict_img_size": False, "always_partition": True}
    return {}
