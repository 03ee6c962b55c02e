"""Fits the state dict of any known source to one of our models."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .files import CheckpointError
from .key_maps import KEY_MAPS, OURS, KeyMap

__all__ = ["ConversionReport", "convert_state_dict", "read_published_layouts"]

logger = logging.getLogger(__name__)

_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class ConversionReport:
    """Which keys of a source and which weights of a model have found each other.

    Attributes:
        source: name of the layout that was recognized.
        loaded: our keys that are set.
        ignored: the source's keys that carry nothing the model needs.
        unexpected: the source's keys that have no place in the model.
        missing: our weights that the source does not have.
        mismatched: our keys whose shape differs, with the source's shape and ours.
        backbone_only: the source is a pretrained classifier, so that weights of the head are missing as a matter of course.
        frozen: of the missing and mismatched weights those that no training changes.
    """

    source: str
    loaded: tuple[str, ...]
    ignored: tuple[str, ...]
    unexpected: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    backbone_only: bool
    frozen: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every weight of the model is set and every key of the source has found its place."""
        return not (self.unexpected or self.missing or self.mismatched)

    @property
    def expected(self) -> bool:
        """Whether all is set that a training from such a source starts with."""
        return self.complete or (self.backbone_only and not self.mismatched and not self.frozen)

    def __str__(self) -> str:
        left = len(self.missing) + len(self.mismatched)
        lines = [f"{len(self.loaded)} of the model's {len(self.loaded) + left} weights are set, from the layout of {self.source}."]
        for key, theirs, ours in self.mismatched:
            lines.append(f"  {key} has shape {theirs} in the file and {ours} in the model: left at its initial value.")
        if any("cls_score" in key for key, _, _ in self.mismatched):
            lines.append(
                "  The number of classes differs: the classifier has to be trained. To predict, take the config that the weights were "
                "trained with (its NUM_CLASSES)."
            )
        if self.missing:
            lines.append(f"  not in the file, left at the initial value ({len(self.missing)}): {_summary(self.missing)}")
        if self.unexpected:
            lines.append(f"  in the file, but not in the model ({len(self.unexpected)}): {_summary(self.unexpected)}")
        if left > len(self.frozen):
            lines.append("  What is left at its initial value is random: it has to be trained before the model can predict.")
        if self.frozen:
            lines.append(
                f"  Random and frozen, so that no training will change it ({len(self.frozen)}): {_summary(self.frozen)}. Take weights that "
                "hold it, or train it: MODEL.BACKBONE.FREEZE_AT 0, and norms that are not 'FrozenBN'."
            )
        return "\n".join(lines)


def _summary(keys: Iterable[str], limit: int = 12) -> str:
    """Keys grouped by module: ``head.cls_tower.0.{bias, weight}``."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        module, _, name = key.rpartition(".")
        groups.setdefault(module, []).append(name)
    texts = [f"{module}.{{{', '.join(names)}}}" if len(names) > 1 else f"{module}.{names[0]}" for module, names in groups.items()]
    return ", ".join(texts[:limit]) + (f", and {len(texts) - limit} modules more" if len(texts) > limit else "")


def convert_state_dict(state_dict: Mapping[str, Any], model: nn.Module) -> tuple[dict[str, Tensor], ConversionReport]:
    """Names and values of a state dict as the model has them.

    Args:
        state_dict: of our own model or of any source in :data:`detkit.checkpoint.key_maps.KEY_MAPS`, as tensors or numpy arrays, with or
            without the ``module.`` of a parallel wrapper.
        model: its names and shapes decide. It is not changed.

    Returns:
        the state dict to load, without keys whose shape differs, and the report.

    Raises:
        CheckpointError: an entry is no tensor, or not one key fits the model.
    """
    tensors = _tensors(state_dict)
    ours = model.state_dict()
    key_map = max(KEY_MAPS, key=lambda candidate: _fit(candidate, tensors, ours))
    converted: dict[str, Tensor] = {}
    ignored: list[str] = []
    unexpected: list[str] = []
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
    for key, value in tensors.items():
        name = key_map.rename(key)
        if name in converted:
            raise CheckpointError(f"'{key}' and another key of the checkpoint both stand for '{name}'.")
        if name not in ours:
            optional = key_map.backbone_only or key_map.ignores(key) or key.endswith("num_batches_tracked")
            (ignored if optional else unexpected).append(key)
        elif value.shape != ours[name].shape and not value.numel() == ours[name].numel() == 1:
            mismatched.append((name, tuple(value.shape), tuple(ours[name].shape)))
        else:
            converted[name] = _value(name, value.reshape(ours[name].shape), key_map)
    if not converted:
        raise CheckpointError(_fits_nothing(tensors, ours))
    if key_map.backbone_only:
        _add_identity_statistics(converted, ours)
    accounted = {*converted, *(name for name, _, _ in mismatched)}
    missing = [name for name in _weights(model) if name not in accounted]
    report = ConversionReport(
        key_map.name,
        tuple(converted),
        tuple(ignored),
        tuple(unexpected),
        tuple(missing),
        tuple(mismatched),
        key_map.backbone_only,
        _frozen(model, [*missing, *(name for name, _, _ in mismatched)]),
    )
    return converted, report


def _fit(key_map: KeyMap, keys: Iterable[str], ours: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many keys have a place in the model, and the negative number of those that the map does not know at all."""
    names = {key: key_map.rename(key) for key in keys}
    return sum(name in ours for name in names.values()), -sum(name is None and not key_map.ignores(key) for key, name in names.items())


def _frozen(model: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """Those of the weights that no training changes: of frozen modules, and the statistics of frozen norms."""
    trained = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    trained |= {f"{name}.{statistic}" for name, module in model.named_modules() if _learns_statistics(module) for statistic in _STATISTICS}
    return tuple(name for name in names if name not in trained)


def _learns_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase) and (module.weight is None or module.weight.requires_grad)


def _tensors(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    prefix = "module." if all(key.startswith("module.") for key in state_dict) else ""
    tensors = {}
    for key, value in state_dict.items():
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        if not isinstance(value, Tensor):
            raise CheckpointError(f"The entry '{key}' of the checkpoint is a {type(value).__name__}, not a tensor.")
        tensors[key.removeprefix(prefix)] = value
    return tensors


def _value(name: str, value: Tensor, key_map: KeyMap) -> Tensor:
    return value + key_map.running_var_shift if key_map.running_var_shift and name.endswith(".running_var") else value


def _add_identity_statistics(converted: dict[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    """MSRA's ResNets have their batch statistics folded into the affine part: mean 0 and, with the epsilon added, variance 1."""
    for name in [name for name in converted if name.endswith(".norm.weight")]:
        module = name.removesuffix("weight")
        if module + "running_mean" in ours:
            converted.setdefault(module + "running_mean", torch.zeros_like(ours[module + "running_mean"]))
            converted.setdefault(module + "running_var", torch.ones_like(ours[module + "running_var"]) - 1e-5)


def _weights(model: nn.Module) -> list[str]:
    """Names of all that a source of weights has to set: parameters and batch statistics, but not counters and running normalizers."""
    state = model.state_dict()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return [name for name in state if name in parameters or name.endswith((*_STATISTICS, ".weight", ".bias"))]


def _fits_nothing(tensors: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> str:
    return (
        f"Not one of the checkpoint's {len(tensors)} keys fits the model. It has {_summary(tensors, 4)}; the model has "
        f"{_summary(ours, 4)}. Layouts that are known: {', '.join(key_map.name for key_map in KEY_MAPS)}."
    )


def read_published_layouts(model: nn.Module) -> None:
    """Makes ``model.load_state_dict`` take the layout of any known source, whoever calls it (Detectron2's ``DefaultPredictor`` does).

    A model to which weights were loaded that hold only a part of it refuses to predict, until the rest is loaded or trained.
    """
    model.register_load_state_dict_pre_hook(_convert_in_place)
    model.register_forward_pre_hook(_refuse_random_weights)


def _convert_in_place(model: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    if prefix or any(not isinstance(value, Tensor) for value in state_dict.values()):
        return
    if not state_dict.keys() <= model.state_dict().keys():
        _convert(model, state_dict)
    left = [name for name in _weights(model) if name not in state_dict]
    before = getattr(model, _RANDOM, None)
    setattr(model, _RANDOM, tuple(left if before is None else set(left).intersection(before)))


def _convert(model: nn.Module, state_dict: dict[str, Any]) -> None:
    try:
        converted, report = convert_state_dict(state_dict, model)
    except CheckpointError:
        return  # torch reports the missing keys
    if report.source == OURS.name:
        return
    logger.info("Converted %s", report)
    kept = {name: state_dict[name] for name in report.unexpected}
    state_dict.clear()
    state_dict.update(kept)
    state_dict.update(converted)


#: attribute of a model: names of the weights that were in nothing that was loaded; absent where nothing was
_RANDOM = "weights_left_random"


def _refuse_random_weights(model: nn.Module, _: Any) -> None:
    random = getattr(model, _RANDOM, None)
    if not random:
        return
    if not model.training:
        raise CheckpointError(
            f"The model cannot predict: {len(random)} of its weights were not in what was loaded, or had another shape there, and are "
            f"random: {_summary(random)}. Take the config that the weights were trained with (config.yaml of the run; NUM_CLASSES has to "
            "be theirs), or detkit.Predictor.from_run(folder), which does."
        )
    setattr(model, _RANDOM, ())
