"""Optimizers whose whole step is one kernel for all parameters, and what torch's leaves to the caller."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["can_be_fused", "keep_fused_sound", "skips_by_itself"]

#: where torch has fused kernels of SGD and AdamW from 2.11 on
_DEVICES = {"cpu", "cuda"}


def can_be_fused(model: nn.Module) -> bool:
    """Whether torch has fused kernels for the parameters that are trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return all(p.device.type in _DEVICES and p.is_floating_point() for p in trained)


def skips_by_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step does nothing where ``optimizer.found_inf``, a tensor of its device, is 1; nothing is read for it."""
    return bool(optimizer.defaults.get("fused"))


def keep_fused_sound(optimizer: torch.optim.Optimizer) -> None:
    """Makes every step of a fused optimizer look at its tensors first.

    The kernels walk through memory: a gradient or a state whose numbers lie in another order than those of its parameter (one that was
    loaded, where weights are channels last) would be added to the wrong places. And SGD's momentum has to be there for all parameters or
    for none, and stays uninitialized where the first step is skipped: here it begins at zero, which gives the same steps.
    """
    optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: _make_sound(optimizer))


@torch.no_grad()
def _make_sound(optimizer: Any) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is None:
                continue
            if not _same_layout(p.grad, p):
                p.grad = _laid_out_as(p, p.grad)
            state = optimizer.state[p] if group.get("momentum") else optimizer.state.get(p, {})
            if group.get("momentum") and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(p)
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == p.shape and not _same_layout(value, p):
                    state[name] = _laid_out_as(p, value)


def _same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether the numbers of two tensors of one shape lie in the same order."""
    if a.stride() == b.stride():
        return True
    return all(size == 1 or one == other for size, one, other in zip(a.shape, a.stride(), b.stride(), strict=True))


def _laid_out_as(p: Tensor, values: Tensor) -> Tensor:
    return torch.empty_like(p, dtype=values.dtype).copy_(values)
