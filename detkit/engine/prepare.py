"""Which form a network takes to run fast: the one place that decides what is done to it, and in which order.

For training: the layout of its weights. For inference, on a copy: norms folded, the precision of its weights, their layout, and on a CPU
the kernels of its convolutions.
Either may be compiled.
"""

from __future__ import annotations

import copy
import logging
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d
from torch import nn

from detkit.config import Section
from detkit.engine.compile import compile_parts
from detkit.layers import fold_norms, foldable_norms, use_onednn

__all__ = ["prepare_for_inference", "prepare_for_training", "set_float32_precision", "training_dtype"]

logger = logging.getLogger(__name__)

_HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
#: layers that do nothing with their weights but one operation that autocast knows
_CAST = (nn.Conv2d, Conv2d, nn.ConvTranspose2d, nn.Linear)


def prepare_for_training(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model in the form in which it is trained, in place: ``MODEL.MEMORY_FORMAT``, ``FLOAT32_PRECISION``,
    ``SOLVER.COMPILE``.

    Before an optimizer, an average or parallel workers take its parameters.
    """
    set_float32_precision(cfg)
    if dtype := training_dtype(cfg):
        _warn_of_emulation(dtype, model, "SOLVER.AMP.ENABLED False")
    model.to(memory_format=_memory_format(cfg, model, training=True))
    compile_parts(cfg, model, training=True)
    return model


def prepare_for_inference(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model in the form in which it detects: ``TEST.FOLD_NORMS``, ``TEST.PRECISION``, ``MODEL.MEMORY_FORMAT``,
    ``MODEL.COMPILE``.

    The model itself stays as it is, its weights included: where something is to be changed, that happens to a copy in evaluation mode
    that shares with the model all tensors that stay. After a change of the model it is to be made again: it follows in part.

    Args:
        model: a detector with its weights, on its device. One without weights, such as a file that another runtime runs
            (:class:`detkit.export.OnnxModel`), is given back.
    """
    if next(model.parameters(), None) is None:
        return model
    set_float32_precision(cfg)
    dtype, layout = Section(cfg, "TEST").choice("PRECISION", {"float32": torch.float32, **_HALF}), _memory_format(cfg, model)
    fold = cfg.TEST.FOLD_NORMS and foldable_norms(model) > 0
    other_layout = any(not p.is_contiguous(memory_format=layout) for p in model.parameters() if p.dim() == 4)
    compiled = cfg.MODEL.COMPILE
    convolves = any(p.dim() == 4 for p in model.parameters())
    by_onednn = convolves and layout == torch.channels_last and dtype == torch.float32 and _device(model) == "cpu" and not compiled
    if not (fold or other_layout or dtype != torch.float32 or by_onednn or compiled):
        return model
    prepared = _sharing_copy(model).eval()
    if fold:
        fold_norms(prepared)
    if dtype != torch.float32:
        _warn_of_emulation(dtype, model, "TEST.PRECISION float32")
        _compute_in(prepared, dtype)
    if other_layout or fold:
        _lay_out(prepared, layout)
    if by_onednn:
        use_onednn(prepared)
    compile_parts(cfg, prepared, training=False)
    return prepared


def training_dtype(cfg: CfgNode) -> torch.dtype | None:
    """What autocast computes in while training, as ``SOLVER.AMP`` says; None: there is no mixed precision."""
    return Section(cfg, "SOLVER.AMP").choice("DTYPE", _HALF) if cfg.SOLVER.AMP.ENABLED else None


def set_float32_precision(cfg: CfgNode) -> None:
    """How GPUs of this process multiply numbers of float32: ``FLOAT32_PRECISION``. Where that is "", nothing is changed."""
    if precision := cfg.FLOAT32_PRECISION:
        torch.backends.cuda.matmul.fp32_precision = precision
        torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
        torch.backends.cudnn.rnn.fp32_precision = precision  # type: ignore[attr-defined]


def _memory_format(cfg: CfgNode, model: nn.Module, *, training: bool = False) -> torch.memory_format:
    formats = {
        "auto": _fastest_format(model, training),
        "channels_last": torch.channels_last,
        "contiguous": torch.contiguous_format,
    }
    return Section(cfg, "MODEL").choice("MEMORY_FORMAT", formats)


def _fastest_format(model: nn.Module, training: bool) -> torch.memory_format:
    """Channels last on a CPU, where convolutions are faster in it.

    A processor without AVX-512 takes two to five times as long for the weight gradient of a wide 3x3 convolution in it, but a quarter for
    that of a depthwise one, so that there only networks that have these train in it.
    """
    if _device(model) != "cpu":
        return torch.contiguous_format
    slow_gradients = training and torch.backends.cpu.get_cpu_capability() == "AVX2"
    depthwise = (isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in model.modules())
    return torch.contiguous_format if slow_gradients and not any(depthwise) else torch.channels_last


def _warn_of_emulation(dtype: torch.dtype, model: nn.Module, instead: str) -> None:
    """Says that a processor computes a half-precision type by others, which takes many times as long as float32."""
    if _device(model) != "cpu" or not torch.backends.mkldnn.is_available():
        return
    supported = {torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported, torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported}
    if not supported[dtype]():
        name = str(dtype).removeprefix("torch.")
        logger.warning(
            "This processor has no instructions for %s, in which networks run many times slower on it than in float32: %s.", name, instead
        )


def _device(model: nn.Module) -> str:
    return next(model.parameters()).device.type


def _sharing_copy(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are those of the model."""
    shared: dict[int, Any] = {id(tensor): tensor for tensors in (model.parameters(), model.buffers()) for tensor in tensors}
    return copy.deepcopy(model, shared)


def _lay_out(network: nn.Module, layout: torch.memory_format) -> None:
    """Gives the weights of convolutions a layout, without touching the tensors that there are."""
    for module in network.modules():
        for name, p in module._parameters.items():
            if p is not None and p.dim() == 4 and not p.is_contiguous(memory_format=layout):
                module._parameters[name] = nn.Parameter(p.detach().contiguous(memory_format=layout), p.requires_grad)


def _compute_in(model: Any, dtype: torch.dtype) -> None:
    """Makes backbone and head compute in ``dtype`` as autocast does, with the weights cast once. What they give becomes detections in
    float32."""
    for module in model.modules():
        if type(module) in _CAST:
            for name, p in module._parameters.items():
                if p is not None:
                    module._parameters[name] = nn.Parameter(p.detach().to(dtype), requires_grad=False)
    name = "raw_outputs" if hasattr(model, "raw_outputs") else "forward"  # the network alone, where it can be told from the rest
    setattr(model, name, partial(_in_autocast, getattr(model, name), dtype, _device(model)))


def _in_autocast(function: Any, dtype: torch.dtype, device: str, *args: Any) -> Any:
    with torch.autocast(device, dtype=dtype):
        return function(*args)
