"""What a detector costs: parameters, operations, activations, and time on the device at hand."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.utils.analysis import FlopCountAnalysis
from fvcore.nn import ActivationCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import nn

from detkit.export import DetectorProgram

__all__ = ["Latency", "ModelCost", "count_cost", "measure_latency"]

#: what compares, moves or scales numbers one by one, as the operators that Detectron2 leaves out
_FREE = {
    "torchvision::nms",
    "aten::abs",
    "aten::amax",
    "aten::amin",
    "aten::any",
    "aten::clamp_min",
    "aten::cumsum",
    "aten::eq",
    "aten::expm1",
    "aten::flip",
    "aten::floor",
    "aten::gather",
    "aten::ge",
    "aten::gelu",
    "aten::hardswish_",
    "aten::hardtanh_",
    "aten::index",
    "aten::index_fill",
    "aten::index_put_",
    "aten::le",
    "aten::logical_and",
    "aten::logical_not",
    "aten::lt",
    "aten::masked_fill",
    "aten::max",
    "aten::maximum",
    "aten::mean",
    "aten::min",
    "aten::minimum",
    "aten::movedim",
    "aten::nan_to_num",
    "aten::ne",
    "aten::new_full",
    "aten::new_zeros",
    "aten::numel",
    "aten::one_hot",
    "aten::ones_like",
    "aten::zeros_like",
    "aten::pad",
    "aten::pow",
    "aten::repeat",
    "aten::roll",
    "aten::round",
    "aten::scatter",
    "aten::scatter_add",
    "aten::silu_",
    "aten::softplus",
    "aten::square",
    "aten::sum",
    "aten::tanh",
    "aten::topk",
    "aten::unflatten",
    "aten::upsample_nearest2d",
    "aten::view_as",
    "aten::where",
}


@dataclass(frozen=True)
class ModelCost:
    """Of one image.

    Attributes:
        parameters: numbers that the model learns, those that are frozen included.
        trained: those that training changes.
        flops: multiply-adds, as fvcore counts them: convolutions, matrix products, norms, bilinear sampling.
        activations: numbers that convolutions and matrix products put out.
        by_part: multiply-adds of backbone, head and their parts.
        not_counted: operators that fvcore cannot count, and how often they occur.
    """

    parameters: int
    trained: int
    flops: int
    activations: int
    by_part: Mapping[str, int]
    not_counted: Mapping[str, int]


@dataclass(frozen=True)
class Latency:
    """Seconds for a batch, of several runs.

    Attributes:
        median, low, high: with the quarter of the runs that was faster than ``low``, and the one that was slower than ``high``.
        batch: images in it.
        runs: how many.
    """

    median: float
    low: float
    high: float
    batch: int
    runs: int

    @property
    def fps(self) -> float:
        """Images per second."""
        return self.batch / self.median


def count_cost(model: nn.Module, size: tuple[int, int]) -> ModelCost:
    """Counts on an image of zeros.

    Args:
        model: a detector, in any mode; its mode is restored.
        size: (height, width) of the image in pixels, as it enters the network.
    """
    mode, device = model.training, next(model.parameters()).device
    inputs: Any
    if hasattr(model, "detect_tensors"):
        traced: nn.Module = DetectorProgram(model)
        inputs = (torch.zeros(1, 3, *size, device=device), torch.tensor([size], device=device))
    else:  # one of Detectron2's own
        traced, inputs = model.eval(), [{"image": torch.zeros(3, *size)}]
    try:
        # fvcore counts on a trace of this one size
        one_size = traced.traced_for_one_size() if isinstance(traced, DetectorProgram) else contextlib.nullcontext()
        with one_size, _no_fast_attention(), torch.no_grad():
            flops = FlopCountAnalysis(traced, inputs)
            flops.set_op_handle("torchvision::deform_conv2d", _deform_conv_flops, "aten::embedding_bag", _embedding_bag_flops)
            flops.uncalled_modules_warnings(False).unsupported_ops_warnings(False).tracer_warnings("none")
            total = int(flops.total())
            # of the same adapter, which knows models that take no tensors
            activations = ActivationCountAnalysis(flops._model, flops._inputs)
            activations.set_op_handle("torchvision::deform_conv2d", _deform_conv_outputs)
            activations.uncalled_modules_warnings(False).unsupported_ops_warnings(False).tracer_warnings("none")
            outputs = int(activations.total())
    finally:
        model.train(mode)
    parameters = list(model.parameters())
    return ModelCost(
        parameters=sum(each.numel() for each in parameters),
        trained=sum(each.numel() for each in parameters if each.requires_grad),
        flops=total,
        activations=outputs,
        by_part=_by_part(flops.by_module()),
        not_counted={name: count for name, count in flops.unsupported_ops().items() if name not in _FREE},
    )


def _by_part(counts: Mapping[str, int]) -> dict[str, int]:
    """Of the modules at most two steps below the detector, by their names in it."""
    parts = {}
    for name, count in counts.items():
        path = name.split(".")
        while path and path[0] == "model":  # the adapter's, and the program's
            path.pop(0)
        if 1 <= len(path) <= 2 and path[0] and count:
            parts[".".join(path)] = int(count)
    return parts


def _deform_conv_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Of the products; the four-fold bilinear sampling of every point comes to another four per sample."""
    weight, output = get_shape(inputs[1]), get_shape(outputs[0])
    products = math.prod(output) * math.prod(weight[1:])
    samples = output[0] * math.prod(output[2:]) * get_shape(inputs[0])[1] * math.prod(weight[2:])
    return Counter({"deform_conv": products + 4 * samples})


def _embedding_bag_flops(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """One multiply-add for every number that is looked up: the sampling of LSNet's convolutions at landmarks."""
    return Counter({"embedding_bag": math.prod(get_shape(inputs[1])) * get_shape(inputs[0])[1]})


def _deform_conv_outputs(inputs: list[Any], outputs: list[Any]) -> int:
    return math.prod(get_shape(outputs[0]))


@contextlib.contextmanager
def _no_fast_attention() -> Iterator[None]:
    """Within it attention layers run as single products; else they are one operator that fvcore does not know."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@torch.no_grad()
def measure_latency(
    model: nn.Module,
    size: tuple[int, int],
    *,
    batch: int = 1,
    runs: int = 20,
    warm_up: int = 3,
    progress: Callable[[], object] = lambda: None,
) -> Latency:
    """Time from images in memory to detections, with Detectron2's pre- and post-processing, without reading and resizing.

    Args:
        model: a detector, on the device to measure; its mode is restored.
        size: (height, width) of every image in pixels, as it enters the network.
        batch: images at once.
        runs: that are measured.
        warm_up: runs before them.
        progress: called after every run.
    """
    mode, device = model.training, next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, *size), generator=generator).float().to(device) for _ in range(batch)]
    inputs = [{"image": image, "height": size[0], "width": size[1]} for image in images]
    model.eval()
    seconds = []
    try:
        for run in range(warm_up + runs):
            start = time.perf_counter()
            model(inputs)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if run >= warm_up:
                seconds.append(time.perf_counter() - start)
            progress()
    finally:
        model.train(mode)
    low, median, high = np.percentile(seconds, [25, 50, 75]).tolist()
    return Latency(median, low, high, batch, runs)
