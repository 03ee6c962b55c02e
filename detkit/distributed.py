"""Workers and processors: what a loss needs to know of the other workers, and how many processors this process may use.

Loss normalizers (number of positives, sum of centerness, ...) are averaged over the workers: gradients are averaged too, so that
`local sum / mean normalizer`, averaged over the workers, is `global sum / global normalizer` -- the loss of one process on the
whole batch.
"""

from __future__ import annotations

import inspect
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["data_parallel", "get_rank", "get_world_size", "reduce_mean", "usable_processors"]


def get_world_size() -> int:
    """Number of workers; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def get_rank() -> int:
    """Index of this worker, in [0, world size)."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def usable_processors() -> int:
    """Number of processors that this process may run on, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reduce_mean(tensor: torch.Tensor) -> torch.Tensor:
    """The elementwise mean of `tensor` over all workers, detached; every worker must call it with the same shape and dtype.

    Works with NCCL and gloo, waits for no transfer to the host, and leaves its input alone. Integer tensors are turned to float32.
    Without a process group (or with one worker) it is the detached input.
    """
    tensor = tensor.detach()
    if not tensor.is_floating_point():
        tensor = tensor.float()
    world_size = get_world_size()
    if world_size == 1:
        return tensor
    mean = tensor / world_size
    dist.all_reduce(mean, op=dist.ReduceOp.SUM)
    return mean


def data_parallel(model: nn.Module) -> nn.Module:
    """The model with its gradients averaged over the workers; itself with one worker."""
    if get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    known = inspect.signature(DistributedDataParallel).parameters
    options: dict[str, Any] = {"device_ids": [device.index]} if device.type == "cuda" else {}
    options["forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"] = False  # newer and older torch
    return DistributedDataParallel(model, **options)
