"""The optimizer of a config: parameter groups, SGD or AdamW, gradient clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import reduce_param_groups
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from detkit.config import ConfigError, Section
from detkit.engine.fused import can_be_fused, keep_fused_sound
from detkit.layers import FixedStatisticsBatchNorm

__all__ = ["GradientClipper", "ParameterFactor", "build_gradient_clipper", "build_optimizer", "parameter_groups"]

#: Clips the gradients of parameters in place.
GradientClipper = Callable[[Sequence[nn.Parameter]], None]

_NORM_LAYERS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    FixedStatisticsBatchNorm,
)


class ParameterFactor(NamedTuple):
    """Factors for the parameters whose names begin with ``prefix``."""

    prefix: str
    lr: float
    weight_decay: float = 1.0


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``cfg.SOLVER`` describes, for the parameters of ``model`` that require gradients; fused where asked and possible.

    Raises:
        ConfigError: unknown ``SOLVER.OPTIMIZER``, or ``SOLVER.PARAMETER_FACTORS`` that fit no parameter.
    """
    solver = Section(cfg, "SOLVER")
    try:
        groups = _groups_of(model, solver)
    except ValueError as error:
        raise ConfigError(f"SOLVER.PARAMETER_FACTORS is {solver.PARAMETER_FACTORS}: {error}") from None
    sgd = partial(torch.optim.SGD, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV)
    optimizers: dict[str, Callable[..., torch.optim.Optimizer]] = {"SGD": sgd, "AdamW": torch.optim.AdamW}
    fused = solver.FUSED and can_be_fused(model)
    optimizer = solver.choice("OPTIMIZER", optimizers)(groups, lr=solver.BASE_LR, fused=fused or None)
    if fused:
        keep_fused_sound(optimizer)
    return optimizer


def _groups_of(model: nn.Module, solver: Section) -> list[dict[str, Any]]:
    return parameter_groups(
        model,
        lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        norm_weight_decay=solver.WEIGHT_DECAY_NORM,
        bias_weight_decay=solver.WEIGHT_DECAY_BIAS,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        norm_bias_lr_factor=solver.BIAS_LR_FACTOR if solver.BIAS_LR_FACTOR_OF_NORMS else 1.0,
        factors=[_parse_factor(entry) for entry in solver.PARAMETER_FACTORS],
    )


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    norm_weight_decay: float | None = 0.0,
    bias_weight_decay: float | None = None,
    bias_lr_factor: float = 1.0,
    norm_bias_lr_factor: float | None = None,
    factors: Iterable[ParameterFactor] = (),
) -> list[dict[str, Any]]:
    """The parameters that require gradients, grouped by learning rate and weight decay; each parameter stands in one group.

    Args:
        model: parameters that several modules share count where they come first.
        lr, weight_decay: of weights.
        norm_weight_decay: of weights and biases of normalization layers; None: as of all others.
        bias_weight_decay: of parameters named ``bias``, those of normalization layers included; None: as of all others.
        bias_lr_factor: on the learning rate of parameters named ``bias`` (2 in the official FCOS and ATSS).
        norm_bias_lr_factor: the same for biases of normalization layers; None: ``bias_lr_factor``.
        factors: by prefix of the name, on top of the rest. The longest prefix that fits counts.

    Raises:
        ValueError: a prefix that fits no parameter.
    """
    factors = sorted(factors, key=lambda factor: len(factor.prefix), reverse=True)
    unused = {factor.prefix for factor in factors}
    of_norms = {id(p) for m in model.modules() if isinstance(m, _NORM_LAYERS) for p in m.parameters(recurse=False)}
    groups = []
    for name, parameter in model.named_parameters():
        fitting = [factor for factor in factors if name.startswith(factor.prefix)]
        unused -= {factor.prefix for factor in fitting}
        if not parameter.requires_grad:
            continue
        group_lr, group_decay = lr, weight_decay
        if id(parameter) in of_norms and norm_weight_decay is not None:
            group_decay = norm_weight_decay
        if name.rpartition(".")[2] == "bias":
            group_lr *= bias_lr_factor if norm_bias_lr_factor is None or id(parameter) not in of_norms else norm_bias_lr_factor
            group_decay = group_decay if bias_weight_decay is None else bias_weight_decay
        if fitting:
            group_lr, group_decay = group_lr * fitting[0].lr, group_decay * fitting[0].weight_decay
        groups.append({"params": [parameter], "lr": group_lr, "weight_decay": group_decay})
    if unused:
        tops = sorted({name.split(".")[0] for name, _ in model.named_parameters()})
        raise ValueError(
            f"no parameter's name begins with {', '.join(map(repr, sorted(unused)))}. The model's names begin with {', '.join(tops)}."
        )
    return reduce_param_groups(groups)


def _parse_factor(entry: Sequence[Any]) -> ParameterFactor:
    try:
        prefix, *numbers = entry
        if not isinstance(prefix, str) or not 1 <= len(numbers) <= 2:
            raise TypeError
        return ParameterFactor(prefix, *map(float, numbers))
    except (TypeError, ValueError):
        raise ValueError(
            f"{entry!r} is not [prefix of parameter names, factor on the learning rate, factor on the "
            "weight decay], for instance ['backbone.', 0.1, 1.0]."
        ) from None


def build_gradient_clipper(cfg: CfgNode) -> GradientClipper | None:
    """What ``cfg.SOLVER.CLIP_GRADIENTS`` describes; None where it is not enabled.

    ``CLIP_TYPE`` "value" clips every element, "norm" every parameter's norm (both as in Detectron2), "full_model" the norm of all
    gradients together.

    Raises:
        ConfigError: unknown ``CLIP_TYPE``.
    """
    clip = Section(cfg, "SOLVER.CLIP_GRADIENTS")
    if not clip.ENABLED:
        return None
    value, norm_type = float(clip.CLIP_VALUE), float(clip.NORM_TYPE)

    def clip_values(parameters: Sequence[nn.Parameter]) -> None:
        clip_grad_value_(parameters, value)

    def clip_each_norm(parameters: Sequence[nn.Parameter]) -> None:
        for parameter in parameters:
            clip_grad_norm_(parameter, value, norm_type)

    def clip_whole_norm(parameters: Sequence[nn.Parameter]) -> None:
        clip_grad_norm_(parameters, value, norm_type)

    return clip.choice("CLIP_TYPE", {"value": clip_values, "norm": clip_each_norm, "full_model": clip_whole_norm})
