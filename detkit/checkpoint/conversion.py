"""Fits the state dict of any known source to one of our models."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from detkit.config import Conventions

from .belonging import take_mark, what_speaks_against
from .detectron2_reading import OURS as DETECTRON2_READS_AS_WE_DO
from .errors import CheckpointError
from .key_maps import KEY_MAPS, OURS, KeyMap
from .soundness import as_tensor, checked_weight

__all__ = ["ConversionReport", "convert_state_dict", "read_published_layouts"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConversionReport:
    """Which keys of a source and which weights of the model have found each other.

    Attributes:
        source: name of the layout that was recognized.
        loaded: our keys that are set.
        ignored: the source's keys that carry nothing the model needs.
        unexpected: the source's keys that have no place in the model.
        missing: our weights that the source does not have.
        mismatched: our keys whose shape differs, with the source's shape and ours.
        backbone_only: the source is a pretrained classifier, so that weights of the head are missing as a matter of course.
        frozen: our weights that are not set although training does not change them either.
        parts: of every part of the model its name, how many of its weights are set, and how many it has.
    """

    source: str
    loaded: tuple[str, ...]
    ignored: tuple[str, ...]
    unexpected: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    backbone_only: bool
    frozen: tuple[str, ...] = ()
    parts: tuple[tuple[str, int, int], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every weight of the model is set and every key of the source has found its place."""
        return not (self.unexpected or self.missing or self.mismatched)

    def __str__(self) -> str:
        layout = f"the layout of {self.source}" if not self.unexpected else f"a layout that is most like that of {self.source}"
        lines = [f"{len(self.loaded)} weights from {layout}."]
        if self.parts and not self.complete:
            lines.append(f"  set by part: {', '.join(f'{name} {count} of {total}' for name, count, total in self.parts)}")
        for key, theirs, ours in self.mismatched:
            lines.append(f"  {key} has shape {theirs} in the file and {ours} in the model: left at its initial value.")
        if any("cls_score" in key for key, _, _ in self.mismatched):
            lines.append("  The number of classes differs: the classifier has to be trained (NUM_CLASSES of the model).")
        if self.missing:
            lines.append(f"  not in the file, left at the initial value ({len(self.missing)}): {_summary(self.missing)}")
        if self.unexpected:
            lines.append(f"  in the file, but not in the model ({len(self.unexpected)}): {_summary(self.unexpected)}")
        if self.frozen:
            lines.append(
                f"  Random and frozen ({len(self.frozen)}): {_summary(self.frozen)}. Training does not change these, so the model would "
                "learn on top of noise. Name weights that hold them, or train them: MODEL.BACKBONE.FREEZE_AT 0 and no FrozenBN."
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
        CheckpointError: an entry is no plain tensor of finite numbers in floating point, or not one key fits the model.
    """
    tensors = _tensors(state_dict)
    ours = model.state_dict()
    key_map = max(KEY_MAPS, key=lambda candidate: sum(candidate.rename(key) in ours for key in tensors))
    converted: dict[str, Tensor] = {}
    ignored: list[str] = []
    unexpected: list[str] = []
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
    for key, value in tensors.items():
        name = key_map.rename(key)
        if name in ours:
            value = _used_classes(name, value, ours[name], key_map)
        if name in converted:
            raise CheckpointError(f"'{key}' and another key of the checkpoint both stand for '{name}'.")
        if name not in ours:
            optional = key_map.backbone_only or key_map.ignores(key) or key.endswith("num_batches_tracked")
            (ignored if optional else unexpected).append(key)
        elif value.shape != ours[name].shape and not value.numel() == ours[name].numel() == 1:
            mismatched.append((name, tuple(value.shape), tuple(ours[name].shape)))
        else:
            converted[name] = _value(name, checked_weight(key, value, ours[name]).reshape(ours[name].shape), key_map)
    if not converted:
        raise CheckpointError(_fits_nothing(tensors, ours))
    if key_map.backbone_only:
        _add_identity_statistics(converted, ours)
    accounted = {*converted, *(name for name, _, _ in mismatched)}
    weights = _weights(model)
    missing = [name for name in weights if name not in accounted]
    frozen = _frozen(model)
    report = ConversionReport(
        key_map.name,
        tuple(converted),
        tuple(ignored),
        tuple(unexpected),
        tuple(missing),
        tuple(mismatched),
        key_map.backbone_only,
        tuple(name for name in weights if name in frozen and name not in converted),
        _parts(weights, converted),
    )
    return converted, report


def _tensors(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors by the names of the network itself: without what parallel wrappers put before them, and averages beside them."""
    if not state_dict:
        raise CheckpointError("The checkpoint holds no weights: its state dict is empty.")
    tensors = {key: as_tensor(key, value) for key, value in state_dict.items()}
    if len(tensors) > 1 and all(key.startswith("module.") for key in tensors.keys() - {_COUNT}):
        tensors.pop(_COUNT, None)
    while tensors and all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


#: how many weights a moving average of mmengine has seen
_COUNT = "steps"


def _used_classes(name: str, value: Tensor, ours: Tensor, key_map: KeyMap) -> Tensor:
    """The rows of a class layer that stand for our classes, where the source has more."""
    total = key_map.num_classes
    if total is None or ".cls_score." not in name or value.shape[0] == ours.shape[0] or value.shape[0] % total:
        return value
    return value.unflatten(0, (-1, total))[:, list(key_map.class_rows)].flatten(0, 1)


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
    return [name for name in state if name in parameters or name.endswith((".running_mean", ".running_var", ".weight", ".bias"))]


def _frozen(model: nn.Module) -> set[str]:
    """Names of the weights that training leaves alone: parameters without gradient, and the buffers of norms that are frozen."""
    names = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, FrozenBatchNorm2d):
            names |= {f"{path}.{name}" for name, _ in module.named_buffers(recurse=False)}
    return names


def _parts(weights: Iterable[str], converted: Container[str]) -> tuple[tuple[str, int, int], ...]:
    """Name, number of set and of all weights of the network below the pyramid, the rest of the backbone, the head, and so on."""
    counts: dict[str, list[int]] = {}
    for name in weights:
        part = "backbone.bottom_up" if name.startswith("backbone.bottom_up.") else name.partition(".")[0]
        count = counts.setdefault(part, [0, 0])
        count[0] += name in converted
        count[1] += 1
    return tuple((part, found, total) for part, (found, total) in counts.items())


def _fits_nothing(tensors: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> str:
    return (
        f"Not one of the checkpoint's {len(tensors)} keys fits the model. It has {_summary(tensors, 4)}; the model has "
        f"{_summary(ours, 4)}. Layouts that are known: {', '.join(key_map.name for key_map in KEY_MAPS)}."
    )


def read_published_layouts(model: nn.Module, conventions: Conventions | None = None) -> None:
    """Makes ``model.load_state_dict`` take the layout of any known source, whoever calls it (Detectron2's ``DefaultPredictor`` does).

    A model in evaluation mode takes weights that set all of it only, and published ones only where they belong to its config: else its
    predictions would mean nothing. To load a part of a model, put it into training mode; it then refuses to predict until the rest has
    been loaded or trained.

    Args:
        model: changed in place.
        conventions: of the config that it was built from; None: not known, so that weights are not compared with it.
    """
    setattr(model, DETECTRON2_READS_AS_WE_DO, True)
    model.conventions = conventions  # type: ignore[assignment]
    model.register_load_state_dict_pre_hook(_convert_in_place)
    model.register_forward_pre_hook(_refuse_what_cannot_predict)


def _convert_in_place(model: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    if prefix or not state_dict or any(not isinstance(value, Tensor) for value in state_dict.values()):
        return
    name, layout = take_mark(state_dict), OURS.name
    ours = model.state_dict()
    for key in state_dict.keys() & ours.keys():
        checked_weight(key, as_tensor(key, state_dict[key]), ours[key])
    if not state_dict.keys() <= ours.keys():
        try:
            converted, report = convert_state_dict(state_dict, model)
        except CheckpointError:
            if model.training:
                return  # torch reports the missing keys
            raise
        layout = report.source
        if layout != OURS.name:
            logger.info("Converted %s", report)
            kept = {name: state_dict[name] for name in report.unexpected}
            state_dict.clear()
            state_dict.update(kept)
            state_dict.update(converted)
    missing = [name for name in _weights(model) if name not in state_dict]
    stranger = what_speaks_against(model, layout, name=name)
    if not model.training:
        if stranger and (name or not missing):
            raise CheckpointError(stranger)
        _require_none(missing)
    remember_stranger(model, stranger)
    before = getattr(model, _RANDOM, None)  # of what was loaded before
    setattr(model, _RANDOM, tuple(name for name in missing if before is None or name in before))


def remember_stranger(model: nn.Module, message: str | None) -> None:
    """What to say if a model is to predict, before any training, with weights that do not belong to its config; None: nothing."""
    setattr(model, _STRANGER, message)


#: attribute of a model: what is said if it predicts with what was loaded
_STRANGER = "weights_of_another_config"
#: attribute of a model: names of its weights that nothing that was loaded has held; none where nothing was loaded
_RANDOM = "weights_left_random"


def _refuse_what_cannot_predict(model: nn.Module, _: Any) -> None:
    random, stranger = getattr(model, _RANDOM, ()), getattr(model, _STRANGER, None)
    if model.training and (random or stranger):
        setattr(model, _RANDOM, ())
        remember_stranger(model, None)
    elif stranger or random:
        _require_none(random)
        raise CheckpointError(stranger)


def _require_none(missing: Sequence[str]) -> None:
    if missing:
        raise CheckpointError(
            f"The weights do not fit the model, so its predictions would mean nothing: {len(missing)} are missing or have another shape: "
            f"{_summary(missing)}. Predict with the config that the weights were trained with (config.yaml in the folder of a run), with "
            "its number of classes. To load them as a start for training, put the model into training mode."
        )
