"""The moving average of the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["WeightAverage"]

Tensors = tuple[Tensor, ...] | list[Tensor]


class WeightAverage:
    """An exponential moving average of a model's parameters; buffers are copied.

    The decay grows with the number of updates ``t`` as ``min(decay, (1 + t) / (10 + t))``, so that the average follows the weights
    while they change fast.

    Args:
        model: whose weights are averaged. The average starts as a copy of them.
        decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}, not in [0, 1).")
        self._decay = decay
        self._averaged = AveragedModel(model, multi_avg_fn=self._update)

    @property
    def model(self) -> nn.Module:
        """The model with the averaged weights."""
        return self._averaged.module

    def update(self, model: nn.Module) -> None:
        """Takes in the weights of ``model``, after a step of the optimizer."""
        self._averaged.update_parameters(model)

    def _update(self, averaged: Tensors, current: Tensors, num_averaged: Tensor | int) -> None:
        updates = int(self._averaged.n_averaged)  # lies on the CPU, unlike num_averaged, so nothing is waited for
        get_ema_multi_avg_fn(min(self._decay, (1 + updates) / (10 + updates)))(averaged, current, num_averaged)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights are ``model.state_dict()``; this is the rest."""
        return {"updates": int(self._averaged.n_averaged)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._averaged.n_averaged = torch.tensor(state["updates"])
