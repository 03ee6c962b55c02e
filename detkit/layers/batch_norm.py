"""Batch norms with fixed statistics: one whose affine part learns, and one whose constants are made once."""

from __future__ import annotations

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torchvision.ops import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

__all__ = ["ConstantBatchNorm", "FixedStatisticsBatchNorm", "keep_constants", "train_affine"]


class FixedStatisticsBatchNorm(nn.Module):
    """``(x - running_mean) / sqrt(running_var + eps) * weight + bias`` with fixed statistics; weight and bias learn.

    What mmdetection's backbones do with ``norm_eval``. State-dict keys are those of a batch norm and of Detectron2's FrozenBatchNorm2d.

    Args:
        num_features: C, channels of the input (N, C, H, W).
        eps: added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features, self.eps = num_features, eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    @classmethod
    def from_frozen(cls, frozen: FrozenBatchNorm2d | TorchvisionFrozenBatchNorm2d) -> FixedStatisticsBatchNorm:
        """The same function as a frozen batch norm, on its device and in its type."""
        norm = cls(frozen.weight.numel(), frozen.eps).to(frozen.weight)
        norm.load_state_dict({name: tensor for name, tensor in frozen.state_dict().items() if name in norm.state_dict()})
        return norm

    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps)

    def extra_repr(self) -> str:
        return f"num_features={self.num_features}, eps={self.eps}"


class ConstantBatchNorm(FrozenBatchNorm2d):
    """Detectron2's FrozenBatchNorm2d, which makes factor and summand of its channels anew at every step, in seven operations where one is
    enough. Here they are kept until one of the buffers changes."""

    @classmethod
    def from_frozen(cls, frozen: FrozenBatchNorm2d) -> ConstantBatchNorm:
        """The same function with the same buffers."""
        norm = cls(frozen.num_features, frozen.eps)
        norm._buffers.update(frozen._buffers)
        return norm

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same; one operation forward and one backward."""
        if not x.requires_grad:  # one operation as it is
            return super().forward(x)
        factor, summand = self._constants(x.dtype)
        return torch.addcmul(summand, x, factor)

    def _constants(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Factor and summand, (1, C, 1, 1) each."""
        if torch.compiler.is_compiling():
            return self._make_constants(dtype)
        made_of = [self.weight, self.bias, self.running_mean, self.running_var]
        state = (dtype, *(tensor._version for tensor in made_of))
        kept = self.__dict__.get("_kept")
        if kept is None or kept[0] != state or any(a is not b for a, b in zip(kept[1], made_of, strict=True)):
            kept = self.__dict__["_kept"] = (state, made_of, self._make_constants(dtype))
        return kept[2]

    def _make_constants(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        factor = self.weight * (self.running_var + self.eps).rsqrt()
        summand = self.bias - self.running_mean * factor
        return factor.view(1, -1, 1, 1).to(dtype), summand.view(1, -1, 1, 1).to(dtype)


def keep_constants(network: nn.Module) -> None:
    """Makes Detectron2's frozen batch norms of a network keep their constants, in place."""
    for name, module in list(network.named_modules()):
        if type(module) is FrozenBatchNorm2d:
            network.set_submodule(name, ConstantBatchNorm.from_frozen(module))


def train_affine(network: nn.Module) -> int:
    """Makes weight and bias of the frozen batch norms of a network learn, in place, where the convolution before them learns.

    A batch norm belongs to the convolution that was registered last before it, or that holds it.

    Returns:
        how many batch norms there are whose affine part learns now.
    """
    number, convolution = 0, None
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.modules.conv._ConvNd):
            convolution = module
        is_frozen = isinstance(module, (FrozenBatchNorm2d, TorchvisionFrozenBatchNorm2d))
        if is_frozen and convolution is not None and convolution.weight.requires_grad:
            network.set_submodule(name, FixedStatisticsBatchNorm.from_frozen(module))
            number += 1
    return number
