"""Corner point verification: maps of box corners that help to classify and regress, and that box corners are snapped to, and their losses
(LSNet-CPV, section 4.3; Chen et al., RepPoints v2, NeurIPS 2020, section 3; Law and Deng, CornerNet, ECCV
2018, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from detkit.distributed import reduce_mean
from detkit.geometry import Grid
from detkit.host import on_host, send
from detkit.layers import Tower, init_conv
from detkit.losses.logs import log_of_one_plus
from detkit.structures import GroundTruth

from .corner_targets import class_weights, corner_targets

__all__ = ["CornerCriterion", "CornerMaps", "CornerVerification", "gaussian_focal_loss", "snap_corners"]

#: rows or columns of a level, a power of two, that compiled and exported corner pools see at most
_MAX_CELLS = 2048


@dataclass(frozen=True)
class CornerMaps:
    """Where the corners of boxes lie on a level.

    Attributes:
        heat: (B, 2, H, W) logits of top left and bottom right corners.
        offsets: (B, 4, H, W) x, y of the top left, then of the bottom right corner, from the location, in cells.
        classes: (B, K, H, W) logits of the objects at each location; only for training.
    """

    heat: Tensor
    offsets: Tensor
    classes: Tensor

    #: of heat and offsets together
    NUM_CHANNELS: ClassVar[int] = 6


class CornerVerification(nn.Module):
    """Predicts corner maps and classes from the features of the box tower, and adds what it learns of classes to both towers.

    Args:
        tower: of the convolutions before; its width is that of the features.
        num_classes: K.
        pooled_channels: width of the pooled features.
        prior_prob: initial probability of corners and classes.
    """

    def __init__(self, *, tower: Tower, num_classes: int, pooled_channels: int = 64, prior_prob: float = 0.01) -> None:
        super().__init__()
        channels, norm = tower.channels, tower.norm
        self.shared = tower.build(channels)
        self.classes = Conv2d(channels, num_classes, kernel_size=1)
        self.embedding = _conv(channels, channels, 1, norm)
        self.pools = nn.ModuleDict({"tl": _CornerPool(channels, pooled_channels, norm, from_end=True)})
        self.pools["br"] = _CornerPool(channels, pooled_channels, norm, from_end=False)
        self.heat = nn.ModuleDict({corner: Conv2d(channels, 1, kernel_size=3, padding=1) for corner in self.pools})
        self.offsets = nn.ModuleDict({corner: Conv2d(channels, 2, kernel_size=3, padding=1) for corner in self.pools})
        rare = -math.log((1 - prior_prob) / prior_prob)
        init_conv(self.classes, bias=rare)
        for corner in self.pools:
            init_conv(self.heat[corner], bias=rare)  # type: ignore[arg-type]
            init_conv(self.offsets[corner])  # type: ignore[arg-type]

    def forward(self, cls_feature: Tensor, box_feature: Tensor) -> tuple[Tensor, Tensor, CornerMaps]:
        """Both features (B, C, H, W), each with the class embedding added, and the maps of the level."""
        shared = self.shared(box_feature)
        classes = self.classes(shared)
        embedding = self.embedding(shared)
        corners = {corner: pool(shared + embedding) for corner, pool in self.pools.items()}
        heat = torch.cat([self.heat[corner](x) for corner, x in corners.items()], dim=1)
        offsets = torch.cat([self.offsets[corner](x) for corner, x in corners.items()], dim=1)
        return cls_feature + embedding, box_feature + embedding, CornerMaps(heat, offsets, classes)


def snap_corners(boxes: Tensor, corners: Sequence[CornerMaps], grid: Grid) -> Tensor:
    """Moves the corners of boxes to where the corner maps see one (official code; only while testing).

    Of the four cells around a corner the one with the highest heat counts, and its offset. The boxes of the finest level stay, those of the
    next two look at its maps, those of all others at the maps of the second level.

    Args:
        boxes: (B, P, 4) xyxy in pixels, of all locations.
        corners: of all levels.
        grid: the locations.

    Returns:
        (B, P, 4).
    """
    parts = list(boxes.split([height * width for height, width in grid.sizes], dim=1))
    for level in range(1, len(parts)):
        source = min((level - 1) // 2, 1)
        maps = corners[source]
        moved = [
            _snapped(corner, heat, offset, grid.strides[source], grid.offset)
            for corner, heat, offset in zip(parts[level].chunk(2, -1), maps.heat.unbind(1), maps.offsets.chunk(2, 1), strict=True)
        ]
        parts[level] = torch.cat(moved, dim=-1)
    return torch.cat(parts, dim=1)


def _snapped(corner: Tensor, heat: Tensor, offset: Tensor, stride: int, grid_offset: float) -> Tensor:
    """Corners (B, N, 2) of one kind, after looking at heat (B, H, W) and offsets (B, 2, H, W)."""
    height, width = heat.shape[-2:]
    column, row = (corner / stride - grid_offset).floor().long().unbind(-1)
    ahead = torch.arange(2, device=corner.device)
    columns = (column.clamp(0, max(width - 2, 0))[..., None] + ahead).clamp(max=width - 1)  # (B, N, 2)
    rows = (row.clamp(0, max(height - 2, 0))[..., None] + ahead).clamp(max=height - 1)
    cells = (rows[..., :, None] * width + columns[..., None, :]).flatten(2)  # (B, N, 4)
    images = torch.arange(corner.shape[0], device=corner.device)[:, None]  # len() would make the batch a constant of exported programs
    hottest = heat.flatten(1)[images[..., None], cells].argmax(-1, keepdim=True)
    cell = cells.gather(2, hottest).squeeze(2)
    # not by the remainder of the cell, which ONNX exporters do not take of a width that is any
    place = torch.cat([columns.gather(2, hottest % 2), rows.gather(2, hottest // 2)], dim=-1) + grid_offset
    return (place + offset.flatten(2).transpose(1, 2)[images, cell]) * stride


class _CornerPool(nn.Module):
    """Features that see along the two sides that meet in a corner (Law and Deng, CornerNet, ECCV 2018, section 3.5).

    Args:
        channels: of input and output.
        pooled_channels: in between.
        norm: a Detectron2 norm name.
        from_end: take the maximum over all that lies below and to the right (top left corners), else above and to the left.
    """

    def __init__(self, channels: int, pooled_channels: int, norm: str, *, from_end: bool) -> None:
        super().__init__()
        self.from_end = from_end
        self.vertical = _conv(channels, pooled_channels, 3, norm)
        self.horizontal = _conv(channels, pooled_channels, 3, norm)
        self.pooled = _conv(pooled_channels, channels, 3, norm, activation=False)
        self.skip = _conv(channels, channels, 1, norm, activation=False)
        self.out = _conv(channels, channels, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self._pool(self.vertical(x), dim=2) + self._pool(self.horizontal(x), dim=3)
        return self.out((self.pooled(pooled) + self.skip(x)).relu())

    def _pool(self, x: Tensor, dim: int) -> Tensor:
        """The maximum from each cell on to the end of its column or row."""
        if self.from_end:
            return _running_maximum(x.flip(dim), dim).flip(dim)
        return _running_maximum(x, dim)


def _running_maximum(x: Tensor, dim: int) -> Tensor:
    """The maximum of all cells up to each one, along dimension 2 or 3."""
    if not torch.compiler.is_compiling():
        return x.cummax(dim).values
    # ONNX has no cummax: maxima with itself, shifted by 1, 2, 4, ... cells; exporters cannot follow the strides of permuted tensors
    for shift in (2**power for power in range(_MAX_CELLS.bit_length() - 1)):
        shifted = F.pad(x, (shift, 0) if dim == 3 else (0, 0, shift, 0), value=-torch.inf)
        x = x.maximum(shifted.narrow(dim, 0, x.shape[dim]))
    return x


def _conv(in_channels: int, channels: int, kernel_size: int, norm: str, *, activation: bool = True) -> Conv2d:
    """Convolution without bias, norm, ReLU."""
    conv = Conv2d(
        in_channels,
        channels,
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        bias=False,
        norm=get_norm(norm, channels),
        activation=nn.ReLU() if activation else None,
    )
    init_conv(conv)
    return conv


def gaussian_focal_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """Focal loss of corner maps, per location (CornerNet, equation 1; exponents 2 and 4)."""
    at_corner = heat == 1
    return _focal_loss(torch.where(at_corner, -logits, logits), 2.0) * torch.where(at_corner, 1.0, (1 - heat).pow(4))


def _focal_loss(logits: Tensor, gamma: float) -> Tensor:
    """``-(p ** gamma) ln(1 - p)`` of what should be 0."""
    size = logits.abs()
    softplus = (logits + size) / 2 + log_of_one_plus(size.neg().exp())
    return softplus * logits.sigmoid().pow(gamma)


class CornerCriterion(nn.Module):
    """Losses of corner maps: ``loss_heatmap``, ``loss_offset``, ``loss_sem`` (RepPoints v2, section 3.2; weights of the official LSNet).

    Args:
        num_classes: K.
        heat_weight, offset_weight, class_weight: factors of the terms.
        offset_beta: of smooth L1, in cells.
        focal_alpha, focal_gamma: of the focal loss on the classes.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        heat_weight: float = 0.25,
        offset_weight: float = 1.0,
        class_weight: float = 0.1,
        offset_beta: float = 1 / 9,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.heat_weight = heat_weight
        self.offset_weight = offset_weight
        self.class_weight = class_weight
        self.offset_beta = offset_beta
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma

    def forward(
        self, corners: Sequence[CornerMaps], gt: GroundTruth, grid: Grid, beyond: Tensor | None, valid_sizes: Tensor | None
    ) -> dict[str, Tensor]:
        """Scalar losses.

        Args:
            corners: of all levels.
            gt: the objects.
            grid: where the levels' cells lie.
            beyond: (B, P) bool, locations without a loss on their heat, or None.
            valid_sizes: (B, L, 2) rows and columns of each image's own area, or None for all.
        """
        heat = torch.cat([maps.heat.flatten(2) for maps in corners], dim=2).float()  # (B, 2, P)
        offsets = torch.cat([maps.offsets.flatten(2) for maps in corners], dim=2).float().unflatten(1, (2, 2))
        boxes = on_host(gt.boxes)
        targets = [corner_targets(send(boxes[..., side : side + 2], gt.boxes.device), gt, grid, valid_sizes) for side in (0, 2)]
        positive = torch.stack([target.positive for target in targets], dim=1)
        per_place = gaussian_focal_loss(heat, torch.stack([target.heat for target in targets], dim=1))
        if beyond is not None:
            per_place = per_place.masked_fill(beyond[:, None], 0.0)
        wanted = torch.stack([target.offsets for target in targets], dim=1).transpose(2, 3)  # (B, 2, 2, P)
        distance = F.smooth_l1_loss(offsets, wanted, beta=self.offset_beta, reduction="none").sum(2) * positive
        near, far, weight, covered = self._class_sums(corners, gt, grid)
        sums = torch.cat([positive.sum((0, 2)).float(), torch.stack([weight, covered])])
        tl, br, weight, covered = reduce_mean(sums).unbind()
        counts = torch.stack([tl, br]).clamp(min=1)
        return {
            "loss_heatmap": self.heat_weight * (per_place.sum((0, 2)) / counts).mean(),
            "loss_offset": self.offset_weight * (distance.sum((0, 2)) / counts).mean(),
            "loss_sem": self.class_weight * (near / weight.clamp(min=1e-6) + far / covered.clamp(min=1)),
        }

    def _class_sums(self, corners: Sequence[CornerMaps], gt: GroundTruth, grid: Grid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the focal loss: its weighted sum where objects are, its sum elsewhere; the sum of the weights, the number of places."""
        finest = class_weights(gt, self.num_classes, grid.sizes[0], grid.strides[0])
        weights = torch.cat([F.interpolate(finest, maps.classes.shape[-2:]).flatten(2) for maps in corners], dim=2)
        logits = torch.cat([maps.classes.flatten(2) for maps in corners], dim=2).float()  # (B, K, P)
        there = weights > 0
        loss = _focal_loss(torch.where(there, -logits, logits), self.focal_gamma)
        near = self.focal_alpha * (loss * weights).sum()
        far = (1 - self.focal_alpha) * loss.masked_fill(there, 0.0).sum()
        return near, far, weights.sum(), there.sum().float()
