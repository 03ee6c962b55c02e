"""Values on their way from the host to the device, without waiting for it, and back where the host has to decide on a size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["on_host", "remember", "send", "values_are_at_hand"]


def send(values: np.ndarray | Tensor, device: torch.device | str) -> Tensor:
    """What lies in the host's memory as a tensor on a device.

    The copy to a GPU takes its turn behind the work that the GPU has, and the host goes on meanwhile: memory is pinned for it, since a copy
    of other memory waits for that work. The tensor remembers the values, so that :func:`on_host` gives them back without waiting.

    Args:
        values: not to be changed afterwards; they may be shared with the result where the device is the host.
        device: where the tensor is to lie.
    """
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    device = torch.device(device)
    if tensor.device == device or (device.type == "cpu" and tensor.device.type == "cpu"):
        return tensor
    if device.type == "cuda" and tensor.device.type == "cpu" and torch.cuda.is_available():
        tensor = tensor.pin_memory()
    sent = tensor.to(device, non_blocking=device.type != "cpu")
    return remember(sent, values) if isinstance(values, np.ndarray) else sent


def remember(tensor: Any, values: np.ndarray) -> Tensor:
    """The same tensor, of which :func:`on_host` gives these values until it is changed.

    One made in inference mode remembers nothing, for torch does not tell when it is changed.
    """
    if tensor.is_inference():
        return tensor
    tensor.host_copy = (values, tensor._version)
    return tensor


def on_host(tensor: Tensor) -> np.ndarray:
    """The values of a tensor in the host's memory. Waits for the device, unless they are known from :func:`send` or
    :func:`remember` and unchanged since."""
    values, version = getattr(tensor, "host_copy", (None, 0))
    if values is not None and not tensor.is_inference() and version == tensor._version:
        return values
    return (tensor if tensor.device.type == "cpu" else tensor.cpu()).numpy(force=tensor.requires_grad)


def values_are_at_hand(tensor: Tensor) -> bool:
    """Whether sizes and branches may depend on the values: they lie on the host, and nobody records what is done with them."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()
