"""The export forms of the operators in :mod:`detkit.layers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from detkit.layers import export_as, nms_mask_by_offsets, pool_pyramid_densely

__all__: list[str] = []


def _nms_mask(boxes: Any, scores: Any, classes: Any, iou_threshold: float, wanted: int = 0) -> Any:
    """``detkit::nms_mask`` by NonMaxSuppression, whose batches and classes keep images and classes apart without moving boxes."""
    import onnxscript

    op: Any = onnxscript.opset18
    first = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    # one row of scores per class that occurs, below the threshold where the box has another class
    num_classes = op.Add(op.ReduceMax(classes, keepdims=0), op.Constant(value_int=1))
    numbers = op.Range(op.Constant(value_int=0), num_classes, op.Constant(value_int=1))
    own = op.Equal(op.Unsqueeze(classes, one), op.Unsqueeze(op.Unsqueeze(numbers, first), op.Constant(value_ints=[2])))
    per_class = op.Where(own, op.Unsqueeze(scores, one), op.Constant(value_float=-1.0))
    # inverted boxes (LSNet's, whose left point may lie right of its right one) overlap nothing; NonMaxSuppression would turn them around
    low, high = (
        op.Slice(boxes, op.Constant(value_ints=[start]), op.Constant(value_ints=[start + 2]), op.Constant(value_ints=[2]))
        for start in (0, 2)
    )
    chosen = op.NonMaxSuppression(
        op.Concat(low, op.Max(low, high), axis=2),
        per_class,
        op.Slice(op.Shape(scores), one, op.Constant(value_ints=[2]), first),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[-0.5]),
    )  # (M, 3): image, class, box
    pairs = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)
    kept = op.Squeeze(op.GreaterOrEqual(op.Slice(chosen, first, one, one), op.Constant(value_int=0)), one)
    return op.ScatterND(op.Less(scores, scores), pairs, kept)


def _pool_pyramid(
    pyramid: Sequence[Any], rois: Any, levels: Any, scales: Sequence[float], size: int, sampling_ratio: int, aligned: bool
) -> Any:
    """``detkit::pool_pyramid`` by a RoiAlign per level, on the regions of that level."""
    import onnxscript

    op: Any = onnxscript.opset18
    zero, one, two, five = (op.Constant(value_ints=[number]) for number in (0, 1, 2, 5))
    shape = op.Concat(op.Shape(levels), op.Slice(op.Shape(pyramid[0]), one, two, zero), op.Constant(value_ints=[size, size]), axis=0)
    result = op.Expand(op.Constant(value_float=0.0), shape)
    for level, (features, scale) in enumerate(zip(pyramid, scales, strict=True)):
        index = op.Squeeze(op.NonZero(op.Equal(levels, op.Constant(value_int=level))), zero)
        own = op.Gather(rois, index, axis=0)
        pooled = op.RoiAlign(
            features,
            op.Slice(own, one, five, one),
            op.Cast(op.Squeeze(op.Slice(own, zero, one, one), one), to=7),
            mode="avg",
            output_height=size,
            output_width=size,
            sampling_ratio=max(sampling_ratio, 0),
            spatial_scale=float(scale),
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        )
        result = op.ScatterND(result, op.Unsqueeze(index, one), pooled)
    return result


export_as(torch.ops.detkit.nms_mask.default, plain=nms_mask_by_offsets, onnx=_nms_mask)
export_as(torch.ops.detkit.pool_pyramid.default, plain=pool_pyramid_densely, onnx=_pool_pyramid)
