"""Weights of the model zoo as files of ours: ``detkit://NAME`` wherever Detectron2's ``PathManager`` opens files.

The published file is fetched, checked, fitted to the config of its row with nothing left over, and written to the cache as plain
tensors under our names. So whoever reads it, Detectron2's checkpointer included, finds a safe file and a mark of what it belongs to.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler, get_cache_dir
from torch import nn

from detkit.config import get_cfg, load_method_packages
from detkit.config_files import get_config_file
from detkit.model_zoo import OWN_SOURCE, SCHEME, ZooEntry, ZooError, find, get_checkpoint_url

from .belonging import MARK, mark_of, sha256_of
from .conversion import ConversionReport, convert_state_dict
from .errors import CheckpointError
from .files import read_checkpoint
from .loading import local_file
from .writer import write_atomically, write_text_atomically

__all__ = ["add_zoo_file", "empty_model", "zoo_file"]

logger = logging.getLogger(__name__)


def zoo_folder() -> Path:
    """Where converted weights lie: below the cache of Detectron2, which ``FVCORE_CACHE`` moves."""
    return Path(get_cache_dir()) / "detkit" / "zoo"


def zoo_file(name: str) -> Path:
    """The weights of a row of the model zoo as a file of ours, made at first use.

    Args:
        name: of the row.

    Raises:
        CheckpointError: they could not be fetched, or they are not what they should be.
        ZooError: there is no such row, or no program can fetch its weights.
    """
    entry = find(name)
    path = zoo_folder() / f"{name}.pth"
    if path.is_file():
        return path
    address = get_checkpoint_url(name)
    logger.info("Fetching the weights '%s' of %s (licence: %s)", name, entry.source, entry.licence)
    raw = Path(local_file(address))
    return add_zoo_file(name, raw)


def add_zoo_file(name: str, file: str | os.PathLike[str]) -> Path:
    """Converts a published file and puts it into the cache under the name of its row.

    Args:
        name: of the row.
        file: as its source has published it.

    Returns:
        the converted file.

    Raises:
        CheckpointError: it is not the file of the row, or does not fit its config in full.
        ZooError: there is no such row.
    """
    entry = find(name)
    digest = _checked(entry, Path(file))
    converted, _ = convert_for(entry, file)
    path = zoo_folder() / f"{name}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda stream: torch.save({"model": converted}, stream))
    pin = {"sha256": digest, "size": Path(file).stat().st_size, "address": entry.address, "date": datetime.date.today().isoformat()}
    write_text_atomically(_pin_of(name), json.dumps(pin, indent=1) + "\n")
    return path


def convert_for(entry: ZooEntry, file: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], ConversionReport]:
    """The tensors of a published file under our names, with the mark of its row.

    Raises:
        CheckpointError: it does not fit the config of its row in full.
    """
    state = read_checkpoint(file)["model"]
    try:
        converted, report = convert_state_dict(state, empty_model(str(entry.config)))
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    if not report.complete:
        raise CheckpointError(f"{file} does not fit {entry.config}, the config of '{entry.name}', in full.\n{report}")
    return {**converted, MARK: mark_of(entry.name)}, report


def empty_model(config: str) -> nn.Module:
    """The model of a config file of the project without memory for its weights: names and shapes alone."""
    load_method_packages()
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(config))
    # weights that are named elsewhere, so that nothing warns of random ones
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.MODEL.BACKBONE.WEIGHTS = "meta", SCHEME, ""
    with torch.device("meta"):
        return build_model(cfg)


def _checked(entry: ZooEntry, file: Path) -> str:
    """The sha256 of a file that is the row's, as far as the table or an earlier download tells."""
    if not file.is_file():
        raise CheckpointError(f"There is no file '{file}'.")
    digest = sha256_of(file)
    if entry.hash_prefix and not digest.startswith(entry.hash_prefix):
        raise CheckpointError(
            f"{file} is not the published file of '{entry.name}': its sha256 is {digest[:16]}..., that one's starts with "
            f"{entry.hash_prefix}. Fetch it anew from {entry.address or entry.page}."
        )
    pin = _pin_of(entry.name)
    if pin.is_file() and entry.source != OWN_SOURCE:  # ours may be trained anew
        known = json.loads(pin.read_text(encoding="utf-8"))
        if known["sha256"] != digest:
            raise CheckpointError(
                f"{file} is not the file of '{entry.name}' that was used on {known['date']}: its sha256 is {digest[:16]}..., that one's "
                f"{known['sha256'][:16]}.... If its source has replaced it and you trust the new one, remove {pin}."
            )
    return digest


def _pin_of(name: str) -> Path:
    """Where the content of a row's file is noted at its first use."""
    return zoo_folder() / f"{name}.json"


class _ZooHandler(PathHandler):
    """``detkit://NAME``: a local file of converted weights."""

    def _get_supported_prefixes(self) -> list[str]:
        return [SCHEME]

    def _get_local_path(self, path: str, force: bool = False, **_: Any) -> str:
        try:
            return str(zoo_file(path.removeprefix(SCHEME)))
        except ZooError as error:
            raise CheckpointError(str(error)) from None

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> Any:
        if mode not in ("r", "rb"):
            raise OSError(f"{path} can be read only.")
        return open(self._get_local_path(path), mode, buffering=buffering)

    def _exists(self, path: str, **_: Any) -> bool:
        return (zoo_folder() / f"{path.removeprefix(SCHEME)}.pth").is_file()

    def _isfile(self, path: str, **_: Any) -> bool:
        return self._exists(path)


PathManager.register_handler(_ZooHandler(), allow_override=True)
