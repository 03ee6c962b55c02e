"""The moving average of the weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """An exponential moving average of a model's parameters; buffers are copied.

    The decay grows with the number of updates ``t`` as ``min(decay, (1 + t) / (10 + t))``, so that the average follows the weights
    while they change fast. The count lies on the host, so that nothing waits for a GPU; torch's ``AveragedModel`` sends it there at every
    update, and waits.

    Args:
        model: whose weights are averaged. The average starts as a copy of them.
        decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}, not in [0, 1).")
        self._decay = decay
        self._updates = 0
        #: the model with the averaged weights
        self.model = copy.deepcopy(model)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes in the weights of ``model``, after a step of the optimizer. The first ones are taken as they are."""
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates)) if self._updates else 0.0
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for averaged, current in zip(self.model.buffers(), model.buffers(), strict=True):
            averaged.copy_(current)
        self._updates += 1

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights are ``model.state_dict()``; this is the rest."""
        return {"updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._updates = int(state["updates"])
