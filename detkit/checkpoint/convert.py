"""Published files as files of ours: the tensors alone, under our names, and the names of the classes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model
from safetensors.torch import save
from torch import Tensor, nn

from detkit.config import get_cfg, load_method_packages
from detkit.config_files import get_config_file
from detkit.model_zoo import SCHEME, ZooEntry, find, of_file

from .belonging import MARK, mark_of, sha256_of, take_mark, what_speaks_against
from .conversion import ConversionReport, convert_state_dict
from .files import CheckpointError, read_checkpoint
from .key_maps import OURS
from .writer import write_atomically

__all__ = ["SUFFIXES", "convert_file", "empty_model"]

#: of the files that are written
SUFFIXES = (".pth", ".safetensors")


def convert_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    name: str | None = None,
    part: str | None = None,
    half: bool = False,
) -> ConversionReport:
    """Writes the weights of a file under our names, whatever its layout and whatever lies in it beside them.

    Args:
        source: a file of any known layout. It is read without running what it contains.
        target: ``.pth`` or ``.safetensors``.
        config: that the weights were trained with: a file, or a name below ``configs/``. None: that of ``name``.
        name: of the weights in the model zoo; None: it is told from the file's name and content where the zoo knows them.
        part: key of the file under which the weights stand, where there are several (``ema_state_dict``); None: the usual one.
        half: floating point numbers are stored with 16 bits.

    Returns:
        what was found.

    Raises:
        CheckpointError: the file cannot be read, is not that of ``name``, or does not fit the config in full.
        ZooError: there is no such name.
        ConfigError, FileNotFoundError: the config cannot be used.
    """
    target = Path(target)
    if target.suffix not in SUFFIXES:
        raise CheckpointError(f"{target} has to end in {' or '.join(SUFFIXES)}.")
    content = read_checkpoint(source)
    state = _part_of(content, part, source)
    marked = take_mark(state)
    name = name or marked
    entry = find(name) if name else of_file(name=Path(source).name) or of_file(sha256=sha256_of(source))
    if entry is not None and marked is None:
        check_content(entry, Path(source))
    if config is None:
        if entry is None:
            raise CheckpointError(f"{source} is no file that the model zoo knows: name its config (--config-file) or its row (--name).")
        config = str(find(entry.name).config)
    model = empty_model(config)
    converted, report = _converted(state, model, source, str(config), entry)
    if half:
        converted = {key: value.half() if value.is_floating_point() else value for key, value in converted.items()}
    _write(target, converted, _class_names(content))
    return report


def _converted(
    state: Mapping[str, Any], model: nn.Module, source: str | os.PathLike[str], config: str, entry: ZooEntry | None
) -> tuple[dict[str, Tensor], ConversionReport]:
    try:
        converted, report = convert_state_dict(state, model)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    if not report.complete:
        raise CheckpointError(f"{source} does not fit {config} in full.\n{report}\nName the config that the weights were trained with.")
    # a layout alone speaks for nothing here: that the config is the right one is what the caller says
    stranger = what_speaks_against(model, OURS.name, source=os.fspath(source), name=entry.name) if entry else None
    if stranger:
        raise CheckpointError(stranger)
    return {**converted, **({MARK: mark_of(entry.name)} if entry else {})}, report


def empty_model(config: str | os.PathLike[str]) -> nn.Module:
    """The model of a config without memory for its weights: names and shapes alone.

    Args:
        config: a file, or a name below ``configs/``.
    """
    load_method_packages()
    cfg = get_cfg()
    cfg.merge_from_file(config if os.path.isfile(config) else get_config_file(config))
    # weights that are named elsewhere, so that nothing warns of random ones
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.MODEL.BACKBONE.WEIGHTS = "meta", SCHEME, ""
    with torch.device("meta"):
        return build_model(cfg)


def check_content(entry: ZooEntry, file: Path) -> None:
    """Refuses a file that is not the row's, as far as the table tells."""
    if not file.is_file():
        raise CheckpointError(f"There is no file '{file}'.")
    if entry.hash_prefix is None:
        return
    digest = sha256_of(file)
    if not digest.startswith(entry.hash_prefix):
        raise CheckpointError(
            f"{file} is not the published file of '{entry.name}': its SHA-256 begins with {digest[: len(entry.hash_prefix)]}, that one's "
            f"with {entry.hash_prefix}. Fetch it anew from {entry.address or entry.page}."
        )


def _part_of(content: dict[str, Any], part: str | None, source: str | os.PathLike[str]) -> dict[str, Any]:
    if part is None:
        return dict(content["model"])
    found = content.get(part)
    if not isinstance(found, dict):
        parts = sorted(
            key for key, value in content.items() if isinstance(value, dict) and any(isinstance(each, Tensor) for each in value.values())
        )
        raise CheckpointError(f"{source} holds no weights under '{part}'; there are some under {', '.join(parts)}.")
    return dict(found)


def _class_names(content: Mapping[str, Any]) -> list[str]:
    """Where our trainer, mmengine and mmcv put them."""
    meta = content.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    dataset = meta.get("dataset_meta")
    dataset = dataset if isinstance(dataset, dict) else {}
    for names in (content.get("classes"), dataset.get("classes"), dataset.get("CLASSES"), meta.get("CLASSES")):
        if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
            return list(names)
    return []


def _write(target: Path, tensors: dict[str, Tensor], classes: list[str]) -> None:
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    if target.suffix == ".safetensors":
        metadata = {"classes": json.dumps(classes)} if classes else None
        unshared = {key: value.clone() for key, value in tensors.items()}  # two names of one storage are refused
        write_atomically(target, lambda file: file.write(save(unshared, metadata)))
    else:
        content = {"model": tensors, **({"classes": classes} if classes else {})}
        write_atomically(target, lambda file: torch.save(content, file))
