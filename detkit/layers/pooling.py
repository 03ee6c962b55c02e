"""Pooling regions from the pyramid level of their size, as one operator whose output has a shape that the numbers of regions decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor
from torchvision.ops import roi_align

__all__ = ["PyramidPooler", "pool_pyramid", "pool_pyramid_densely"]

#: corner of a region of which no sample lies on a map, in pixels
OUTSIDE = -1e6


class PyramidPooler(ROIPooler):
    """Detectron2's pooler for equally many boxes per image. But on a CPU, for which nothing waits, no size depends on data, so that nothing
    waits for a GPU, and programs that are compiled or exported see none."""

    def forward(self, x: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """RoIs (B * N, C, size, size).

        Args:
            x: (B, C, H, W) of each level, from fine to coarse.
            boxes: (B, N, 4) xyxy in pixels of the image.
        """
        if boxes.device.type == "cpu" and not torch.compiler.is_compiling():
            return super().forward(list(x), [Boxes(each) for each in boxes])
        images = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)[:, None, None]
        rois = torch.cat([images.expand(-1, boxes.shape[1], 1), boxes], dim=-1).flatten(0, 1)
        canonical = (self.canonical_box_size, self.canonical_level)
        levels = assign_boxes_to_levels([Boxes(rois[:, 1:])], self.min_level, self.max_level, *canonical)
        scales = [pooler.spatial_scale for pooler in self.level_poolers]
        first = self.level_poolers[0]
        pool = pool_pyramid if boxes.device.type == "cpu" else pool_pyramid_densely
        return pool(list(x), rois, levels, scales, self.output_size[0], first.sampling_ratio, first.aligned)


def pool_pyramid_densely(
    pyramid: list[Tensor], rois: Tensor, levels: Tensor, scales: list[float], size: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    """``pool_pyramid`` by pooling from every level, where regions of other levels lie far outside and give zeros. Differentiable."""
    numbers = torch.arange(len(pyramid), device=rois.device)[:, None]
    here = torch.where((levels == numbers)[..., None], rois[:, 1:], OUTSIDE)  # (L, M, 4)
    placed = torch.cat([rois[:, :1].expand(len(pyramid), -1, -1), here], dim=2)
    pooled = [
        roi_align(features, regions, (size, size), scale, sampling_ratio, aligned)
        for features, regions, scale in zip(pyramid, placed.unbind(0), scales, strict=True)
    ]
    return torch.stack(pooled).sum(0) if len(pooled) > 1 else pooled[0]


@torch.library.custom_op("detkit::pool_pyramid", mutates_args=())
def pool_pyramid(
    pyramid: list[Tensor], rois: Tensor, levels: Tensor, scales: list[float], size: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Features of regions, each pooled from one level by RoIAlign. Differentiable by the features. Waits for a GPU.

    Args:
        pyramid: (B, C, H, W) of each level.
        rois: (M, 5) image, x0, y0, x1, y1 in pixels of the image.
        levels: (M,) int64, the level of each region; zeros come from a level that does not exist.
        scales: cells of each level per pixel.
        size: of the result in bins.
        sampling_ratio, aligned: see :func:`torchvision.ops.roi_align`.

    Returns:
        (M, C, size, size).
    """
    result = rois.new_zeros(len(rois), pyramid[0].shape[1], size, size)
    for level, (features, scale) in enumerate(zip(pyramid, scales, strict=True)):
        index = (levels == level).nonzero().squeeze(1)
        result[index] = roi_align(features, rois[index], (size, size), scale, sampling_ratio, aligned)
    return result


@pool_pyramid.register_fake
def _(pyramid: list[Tensor], rois: Tensor, levels: Tensor, scales: list[float], size: int, sampling_ratio: int, aligned: bool) -> Tensor:
    return rois.new_empty(rois.shape[0], pyramid[0].shape[1], size, size)


@torch.library.custom_op("detkit::pool_pyramid_backward", mutates_args=())
def _pool_pyramid_backward(
    grad: Tensor, rois: Tensor, levels: Tensor, scales: list[float], sampling_ratio: int, aligned: bool, shapes: list[int]
) -> list[Tensor]:
    """The gradient of every level; ``shapes`` (B, C, H, W) of each, one after the other."""
    grads = []
    for level, scale in enumerate(scales):
        index = (levels == level).nonzero().squeeze(1)
        there = grad[index].contiguous()
        backward = torch.ops.torchvision._roi_align_backward
        grads.append(backward(there, rois[index], scale, *grad.shape[2:], *shapes[4 * level : 4 * level + 4], sampling_ratio, aligned))
    return grads


@_pool_pyramid_backward.register_fake
def _(
    grad: Tensor, rois: Tensor, levels: Tensor, scales: list[float], sampling_ratio: int, aligned: bool, shapes: list[int]
) -> list[Tensor]:
    return [grad.new_empty(shapes[4 * level : 4 * level + 4]) for level in range(len(scales))]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pyramid, rois, levels, *ctx.settings = inputs
    ctx.save_for_backward(rois, levels)
    ctx.shapes = [side for features in pyramid for side in features.shape]


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    scales, _, sampling_ratio, aligned = ctx.settings
    grads = _pool_pyramid_backward(grad, *ctx.saved_tensors, scales, sampling_ratio, aligned, ctx.shapes)
    return grads, None, None, None, None, None, None


pool_pyramid.register_autograd(_backward, setup_context=_keep_for_backward)
