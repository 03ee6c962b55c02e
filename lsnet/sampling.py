"""Features at landmarks, which the second stage adds to the feature at the anchor point (LSNet, section 3.4, table 3 and figures 3, 4):
convolutions whose points lie at landmarks, on the features of several pyramid levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from detkit.layers import init_conv

from .convolution import convolve, convolve_at
from .landmarks import KERNEL_POINTS, LandmarkSet
from .reading import Reading, Sizes, SourceScale, reading_of, sizes_of

__all__ = ["LandmarkSampler", "LearnedSampler", "PyramidSampler", "kernel_offsets", "level_scales"]

KERNEL_SIZE = 3


def kernel_offsets(vectors: Tensor, free: Tensor, landmarks: LandmarkSet, gradient_share: float) -> Tensor:
    """Offsets of the nine points of a deformable kernel that put them at landmarks.

    Args:
        vectors: (B, 4 * (V + 1), H, W) cross coordinates of the first stage in cells.
        free: (B, 2 * F, H, W) pairs of (y, x) in cells, positions of the points that no landmark steers.
        landmarks: says which vectors steer.
        gradient_share: how much of the gradient goes back to the first stage (official code: 0.1).

    Returns:
        (B, 18, H, W), pairs of (y, x) in cells, relative to the regular 3 x 3 grid.
    """
    crossing = vectors.unflatten(1, (-1, 4)).movedim((1, 2), (-2, -1))
    if torch.compiler.is_compiling():
        crossing = crossing.contiguous()  # exporters cannot follow the strides of permuted tensors
    offsets = landmarks.offsets(crossing)  # (B, H, W, V + 1, 2)
    chosen = torch.stack([offsets[..., vector, :] for vector in landmarks.kernel_vectors], dim=-2)
    positions = torch.cat([chosen.flip(-1).flatten(-2).movedim(-1, 1), free], dim=1)
    if torch.compiler.is_compiling():
        positions = positions.contiguous()
    positions = gradient_share * positions + (1 - gradient_share) * positions.detach()
    steps = torch.arange(KERNEL_SIZE, device=vectors.device, dtype=vectors.dtype) - KERNEL_SIZE // 2
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1).view(1, 2 * KERNEL_POINTS, 1, 1)
    return positions - grid


def source_levels(level: int, num_levels: int) -> tuple[int, ...]:
    """The levels whose features a level uses: itself and its two neighbors, at the ends the nearest two."""
    neighbors = (level - 1, level + 1)
    if level == 0:
        neighbors = (1, 2)
    elif level == num_levels - 1:
        neighbors = (level - 1, level - 2)
    return tuple(source for source in (level, *neighbors) if 0 <= source < num_levels)


def level_scales(
    level: int, sizes: Sequence[tuple[int, int]], strides: Sequence[int], form: Literal["official", "ideal"]
) -> list[tuple[int, SourceScale]]:
    """The source levels of a level, with their scales.

    Args:
        level: where the landmarks were predicted.
        sizes: (height, width) of all levels.
        strides: of all levels in pixels.
        form: ``"ideal"``: both factors are the ratio of the strides, so that all sources are read at the landmark. ``"official"``: ratios
            of the sizes in cells, and the offsets are also multiplied by the ratios of the sources visited before (the official code
            edits a view in place): P3 reads P5 at an eighth of the offset instead of a quarter. For weights trained with it.
    """
    scales, accumulated = [], (1.0, 1.0)
    for source in source_levels(level, len(sizes)):
        if form == "ideal":
            ratio = (strides[level] / strides[source],) * 2
            scales.append((source, SourceScale(ratio, ratio)))
        else:
            ratio = (sizes[source][0] / sizes[level][0], sizes[source][1] / sizes[level][1])
            accumulated = (accumulated[0] * ratio[0], accumulated[1] * ratio[1])
            scales.append((source, SourceScale(ratio, accumulated)))
    return scales


class LandmarkSampler(nn.Module):
    """Features at landmarks on the level of the anchor point ("PE" of table 3).

    Args:
        in_channels: of the features.
        channels: of the result.
    """

    num_sources = 1

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, in_channels, KERNEL_SIZE, KERNEL_SIZE))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.merge = Conv2d(self.num_sources * channels, channels, kernel_size=1)
        init_conv(self.merge)

    def forward(self, features: Sequence[Tensor], offsets: Sequence[Tensor], reading: Reading | None = None) -> list[Tensor]:
        """Features at landmarks.

        Args:
            features: (B, in_channels, H, W) of every level.
            offsets: (B, 18, H, W) per level in cells of that level.
            reading: what :meth:`read` gave for these offsets, for several samplers that look at the same landmarks.

        Returns:
            (B, channels, H, W) per level.
        """
        if torch.compiler.is_exporting():
            return [self._on_level(features, level, offset) for level, offset in enumerate(offsets)]
        convolved = convolve(features, reading or self._read(features, offsets), self.weight)
        merged = self.merge(convolved.transpose(1, 2)[:, :, None]).relu()  # (B, channels, 1, P)
        sizes = sizes_of(offsets)
        parts = merged.split([height * width for height, width in sizes], dim=3)
        return [part.squeeze(2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]

    def read(self, features: Sequence[Tensor], offsets: Sequence[Tensor]) -> Reading | None:
        """What the kernels read on all levels, from the arguments of :meth:`forward`. None where it is found there: for the offsets that a
        sampler learns itself, and in exported programs, which go level by level."""
        return None if torch.compiler.is_exporting() else self._read(features, offsets)

    def _read(self, features: Sequence[Tensor], offsets: Sequence[Tensor]) -> Reading:
        sizes = sizes_of(features)
        return reading_of(offsets, tuple(tuple(self.sources(sizes, level)) for level in range(len(offsets))), sizes)

    def _on_level(self, features: Sequence[Tensor], level: int, offset: Tensor) -> Tensor:
        """One level of exported programs."""
        sizes = sizes_of(features)
        convolved = [convolve_at(features[source], offset, self.weight, scale) for source, scale in self.sources(sizes, level)]
        return self.merge(torch.cat(convolved, dim=1)).relu()

    def sources(self, sizes: Sizes, level: int) -> list[tuple[int, SourceScale]]:
        """The levels to read, of levels of these sizes, and how positions become positions there."""
        return [(level, SourceScale((1.0, 1.0), (1.0, 1.0)))]


class PyramidSampler(LandmarkSampler):
    """Features at landmarks on the level of the anchor point and on two neighbors ("PP" of table 3).

    Args:
        in_channels, channels: as of :class:`LandmarkSampler`.
        strides: of all levels in pixels, at least three.
        scales: ``"official"`` or ``"ideal"``, see :func:`level_scales`.
    """

    num_sources = 3

    def __init__(self, in_channels: int, channels: int, *, strides: Sequence[int], scales: Literal["official", "ideal"]) -> None:
        if len(strides) < self.num_sources:
            raise ValueError(f"strides has {len(strides)} levels. Pyramid features need at least {self.num_sources}.")
        if scales not in ("official", "ideal"):
            raise ValueError(f"scales is {scales!r}. It has to be 'official' or 'ideal'.")
        super().__init__(in_channels, channels)
        self.strides = tuple(strides)
        self.scales = scales

    def sources(self, sizes: Sizes, level: int) -> list[tuple[int, SourceScale]]:
        return level_scales(level, sizes, self.strides, self.scales)


class LearnedSampler(LandmarkSampler):
    """Features where an ordinary deformable convolution finds them useful, whatever the landmarks ("DCN feat" of figure 4)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(in_channels, channels)
        self.conv_offset = Conv2d(in_channels, 2 * KERNEL_POINTS, kernel_size=KERNEL_SIZE, padding=1)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, features: Sequence[Tensor], offsets: Sequence[Tensor], reading: Reading | None = None) -> list[Tensor]:
        learned = [self.conv_offset(feature) for feature in features]
        return super().forward(features, learned)

    def read(self, features: Sequence[Tensor], offsets: Sequence[Tensor]) -> Reading | None:
        return None
