"""What the feature extractors taken from torchvision and timm have in common: named stages, norm, freezing.

A *unit* is a child of the network, or a child of a container (``nn.Sequential``, ``nn.ModuleList``) that is a child of the network:
``conv1`` and ``layer1.0`` of a ResNet, ``features.3`` of a MobileNet. Units are listed in the order in which they run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import Backbone
from torch import Tensor, nn

__all__ = ["NORMS", "FeatureExtractor", "feature_name", "named_units", "stride_of"]

#: what the batch norms of a feature extractor can be
NORMS = ("BN", "FrozenBN", "SyncBN")

#: side in pixels of the empty image on which strides and channels are read off; a multiple of all strides up to 64
PROBE_SIZE = 64


class FeatureExtractor(Backbone):
    """A network that gives feature maps named ``res{l}``, l = log2 of the stride, as Detectron2's ResNet names its stages.

    So any extractor takes the place of another below an FPN without a change of ``MODEL.FPN.IN_FEATURES``. Subclasses register their
    modules and call :meth:`_set_outputs`.
    """

    def _set_outputs(self, shapes: dict[str, tuple[int, int]], unit_strides: dict[str, int]) -> None:
        """Remembers (stride, channels) of every output, fine to coarse, and the stride of every unit in running order."""
        self._out_features = list(shapes)
        self._out_feature_strides = {name: stride for name, (stride, _) in shapes.items()}
        self._out_feature_channels = {name: channels for name, (_, channels) in shapes.items()}
        self._unit_strides = dict(unit_strides)

    def set_norm(self, norm: str) -> None:
        """Turns all batch norms into ``"BN"`` (as they are), ``"FrozenBN"`` (statistics and affine part fixed) or ``"SyncBN"``.

        Weights are kept. Load pretrained ones first.
        """
        if norm not in NORMS:
            raise ValueError(f"The batch norms of a feature extractor can be {', '.join(NORMS)}, not '{norm}'.")
        if norm == "FrozenBN":
            self._frozen(self)
        elif norm == "SyncBN":
            self._synchronized(self)

    def units_of(self, feature: str) -> list[str]:
        """Names of the units of a stage: those with the stride of that output."""
        stride = self._out_feature_strides.get(feature)
        return [name for name, unit_stride in self._unit_strides.items() if unit_stride == stride]

    def freeze(self, freeze_at: int) -> None:
        """Freezes the first units up to stride ``2**freeze_at``; their batch norms become FrozenBN.

        Detectron2's meaning for ResNets: 1 freezes the stem, 2 the stem and ``res2``, and so on; 0 freezes nothing.
        """
        for name, stride in self._unit_strides.items():
            if freeze_at < 1 or stride > 2**freeze_at:
                break
            unit = self.get_submodule(name).requires_grad_(False)
            self.set_submodule(name, self._frozen(unit))

    @staticmethod
    def _frozen(module: nn.Module) -> nn.Module:
        """The module with its batch norms frozen; a new one if it is itself a batch norm."""
        return FrozenBatchNorm2d.convert_frozen_batchnorm(module)

    @staticmethod
    def _synchronized(module: nn.Module) -> nn.Module:
        """The module with its batch norms synchronized over workers; a new one if it is itself a batch norm."""
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)


def named_units(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The units of a network and their dotted names, in the order in which they are registered."""
    for name, child in network.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from ((f"{name}.{inner}", unit) for inner, unit in child.named_children())
        else:
            yield name, child


def feature_name(stride: int) -> str:
    """``res{l}`` of a stride ``2**l``."""
    return f"res{stride.bit_length() - 1}"


def stride_of(output: object, where: str) -> int:
    """Stride of a feature map, or the largest of several, that a :data:`PROBE_SIZE` image gave.

    Raises:
        ValueError: no map of shape (N, C, H, W), or one whose stride is no power of two.
    """
    if isinstance(output, Sequence) and output:
        return max(stride_of(one, where) for one in output)
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    stride = PROBE_SIZE // shape[-1] if len(shape) == 4 and shape[-1] else 0
    if stride < 1 or stride & (stride - 1) or shape[-2:] != (PROBE_SIZE // stride,) * 2:
        raise ValueError(
            f"{where} gives {shape or type(output).__name__} for a (1, 3, {PROBE_SIZE}, {PROBE_SIZE}) image. "
            "A feature pyramid needs maps (N, C, H, W) whose stride is a power of two: take a convolutional network."
        )
    return stride


def probe_image(network: nn.Module) -> Tensor:
    """An empty image (1, 3, PROBE_SIZE, PROBE_SIZE) on the network's device."""
    return torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE, device=next(network.parameters()).device)
