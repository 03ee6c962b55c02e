"""Vectors in cross coordinates: four non-negative components, up, down, left, right (LSNet, section 3.3 and appendix A).

Components are ordered y-, y+, x-, x+ as in the official code; positions are x, y as everywhere here.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cross_coordinates", "from_cross_coordinates", "point_offsets"]


def cross_coordinates(offsets: Tensor, alpha: float = 0.2) -> Tensor:
    """What a branch should predict for a vector: its length on each axis, and ``alpha`` times that on the opposite side.

    Args:
        offsets: (..., 2) x, y from the anchor point to a landmark. 0 counts as right and down.
        alpha: of the softened coordinates (appendix A); with 0 a prediction on the wrong side would get no gradient.

    Returns:
        (..., 4) components, in the unit of ``offsets``. Inverse of :func:`from_cross_coordinates` for alpha < 1.
    """
    yx = offsets.flip(-1)
    length = yx.abs()
    forward = yx >= 0
    pairs = torch.stack([torch.where(forward, alpha * length, length), torch.where(forward, length, alpha * length)], dim=-1)
    return pairs.flatten(-2)


def from_cross_coordinates(vectors: Tensor) -> Tensor:
    """x, y (..., 2) of components (..., 4): on each axis the larger one counts (appendix A), up or left where they are equal."""
    backward, forward = vectors[..., 0::2], vectors[..., 1::2]
    return torch.where(forward > backward, forward, -backward).flip(-1)


def point_offsets(points: Tensor, landmarks: Tensor, boxes: Tensor) -> Tensor:
    """Vectors (..., V + 1, 2) from anchor points (..., 2) to landmarks (..., V, 2) and, last, to the centers of boxes (..., 4)."""
    centers = (boxes[..., :2] + boxes[..., 2:]) / 2
    return torch.cat([landmarks, centers[..., None, :]], dim=-2) - points[..., None, :]
