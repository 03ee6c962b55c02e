"""A learnable factor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Scale"]


class Scale(nn.Module):
    """Multiplies by one learnable number: FCOS, section 3.2, has one per pyramid level for the regression.

    Example::

        >>> Scale(2.0)(torch.tensor([1.0, 3.0])).tolist()
        [2.0, 6.0]"""

    def __init__(self, initial: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(initial)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale
