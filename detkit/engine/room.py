"""The room that the checkpoints of a run take."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from torch import nn

from detkit.checkpoint import state_size

__all__ = ["checkpoint_size", "number_of_checkpoints"]


def checkpoint_size(cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of one checkpoint, about: the optimizer's state is made in the first iteration."""
    weights = state_size(model.state_dict())
    learned = sum(parameter.numel() * 4 for group in optimizer.param_groups for parameter in group["params"])
    moments = 2 if isinstance(optimizer, torch.optim.AdamW) else int(bool(cfg.SOLVER.MOMENTUM))
    return weights * (2 if cfg.SOLVER.EMA.ENABLED else 1) + learned * moments


def number_of_checkpoints(cfg: CfgNode, *, start_iter: int) -> int:
    """How many a run from ``start_iter`` on leaves in its folder, at least 1."""
    period, keep = cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.CHECKPOINT_KEEP
    periodic = (cfg.SOLVER.MAX_ITER - start_iter - 1) // period if period > 0 else 0
    return max(0, min(periodic, keep or periodic)) + 1
