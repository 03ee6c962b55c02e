"""Whether and how a detector's parts are compiled: ``SOLVER.COMPILE``, ``MODEL.COMPILE``."""

from __future__ import annotations

import logging
from functools import cache

import torch
from detectron2.config import CfgNode
from torch import nn

from detkit.config import ConfigError, Section
from detkit.layers import CompiledParts, InParts

__all__ = ["compile_parts"]

logger = logging.getLogger(__name__)


def compile_parts(cfg: CfgNode, model: nn.Module, *, training: bool) -> None:
    """Lets the model's parts be compiled when they first run, for training (``SOLVER.COMPILE``) or for inference (``MODEL.COMPILE``), where
    the key of it is on. Nothing of the model's parameters and their names changes.

    Raises:
        ConfigError: the model does not compute in parts, or nothing can be compiled on this machine.
    """
    section = Section(cfg, "SOLVER" if training else "MODEL")
    if not section.COMPILE:
        return
    if not isinstance(model, InParts):
        raise section.refusal("COMPILE", f"False: {type(model).__name__} does not compute in parts that could be compiled")
    backend, device = Section(cfg, "MODEL").COMPILE_BACKEND, next(model.parameters()).device.type
    if problem := _why_not(backend, device):
        raise ConfigError(
            f"{section.path}.COMPILE is True, but torch.compile makes no program for {device} here: {problem} Install a C++ compiler "
            f"(Debian: g++ and python3-dev; CXX names another one), or set {section.path}.COMPILE False."
        )
    model.compiled = _parts(training, backend, cfg.MODEL.COMPILE_DYNAMIC)
    logger.debug("%s is compiled for %s by %s.", type(model).__name__, "training" if training else "inference", backend)


@cache
def _parts(training: bool, backend: str, dynamic: bool) -> CompiledParts:
    """One for all models, so that every evaluation of a training finds the programs of the one before."""
    return CompiledParts(training=training, inference=not training, backend=backend, dynamic=dynamic)


@cache
def _why_not(backend: str, device: str) -> str:
    """Why a small function cannot be compiled; "" if it can."""

    def small(x: torch.Tensor) -> torch.Tensor:
        return x.sin() + 1

    try:
        torch.compile(small, fullgraph=True, backend=backend)(torch.zeros(8, device=device))
    except Exception as error:  # compilers fail in many ways
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"{(lines or [type(error).__name__])[0].rstrip('.')}."
    return ""
