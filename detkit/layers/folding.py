"""Batch norms with fixed statistics, folded into the convolutions before them: the same function in fewer operations."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from detectron2.layers import Conv2d, FrozenBatchNorm2d, NaiveSyncBatchNorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

from .batch_norm import FixedStatisticsBatchNorm
from .deform import DeformConv2dPack

__all__ = ["fold_norms", "foldable_norms"]

#: convolutions that hold the norm after them as ``norm``
_HOLDERS = (Conv2d, DeformConv2dPack)
_FIXED = (FrozenBatchNorm2d, TorchvisionFrozenBatchNorm2d, FixedStatisticsBatchNorm)


class _Pair(NamedTuple):
    """A convolution and the norm after it, which ``parent`` has under ``name``."""

    conv: nn.Conv2d
    norm: Any
    parent: nn.Module
    name: str


def foldable_norms(network: nn.Module) -> int:
    """How many norms :func:`fold_norms` would fold."""
    return len(_pairs(network))


def fold_norms(network: nn.Module) -> int:
    """Folds batch norms into the convolutions before them, in place; for inference alone.

    A convolution holds its norm as ``norm`` (Detectron2's layers, and the deformable ones), or stands before it in an ``nn.Sequential``.
    Norms that depend on the image (GroupNorm, LayerNorm) stay, and so do those of a convolution that several parts share. Weights and
    biases of the convolutions become new tensors, so that others that share the old ones keep them.

    Returns:
        how many norms there were.
    """
    pairs = _pairs(network)
    for conv, norm, parent, name in pairs:
        weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        conv.weight, conv.bias = (nn.Parameter(each.detach(), requires_grad=False) for each in (weight, bias))
        setattr(parent, name, None if parent is conv else nn.Identity())
    return len(pairs)


def _pairs(network: nn.Module) -> list[_Pair]:
    places = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    return [pair for module in network.modules() for pair in _pairs_of(module) if places[id(pair.conv)] == 1]


def _pairs_of(module: nn.Module) -> Iterator[_Pair]:
    if type(module) in _HOLDERS and _has_constants(module.norm):
        yield _Pair(module, module.norm, module, "norm")  # type: ignore[arg-type]
    if type(module).forward is nn.Sequential.forward:
        children = list(module.named_children())
        for (_, conv), (name, norm) in itertools.pairwise(children):
            if type(conv).forward is nn.Conv2d.forward and _has_constants(norm):
                yield _Pair(conv, norm, module, name)  # type: ignore[arg-type]


def _has_constants(norm: object) -> bool:
    """Whether in inference this is one factor and one summand for each channel, and nothing else."""
    if isinstance(norm, _BatchNorm):
        plain = type(norm).forward in (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward) or isinstance(norm, NaiveSyncBatchNorm)
        return plain and norm.running_mean is not None
    return isinstance(norm, _FIXED)
