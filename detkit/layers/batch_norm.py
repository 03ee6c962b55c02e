"""Batch norm with fixed statistics whose affine part learns."""

from __future__ import annotations

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torchvision.ops import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

__all__ = ["FixedStatisticsBatchNorm", "train_affine"]


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
