"""The folder that a shared model is: three files, of which none can run code."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from safetensors.torch import save
from torch import Tensor

from detkit.checkpoint import CONFIG_FILE, CheckpointError, read_checkpoint, write_atomically, write_text_atomically
from detkit.config import get_cfg

from .card import CARD_FILE, card_of
from .model import SharedModel

__all__ = ["SHARED_FILES", "SHARED_WEIGHTS", "read_shared_model", "write_shared_model"]

SHARED_WEIGHTS = "model.safetensors"
#: all that belongs to a shared model
SHARED_FILES = (SHARED_WEIGHTS, CONFIG_FILE, CARD_FILE)
#: keys that say where things lie on the machine of the training, which is nobody's business
_PLACES = ("TRAIN_JSON", "VAL_JSON", "TRAIN_IMAGES", "VAL_IMAGES")


def write_shared_model(
    model: SharedModel, folder: str | os.PathLike[str], *, name: str, half: bool = False, licence: str | None = None
) -> Path:
    """Writes :data:`SHARED_FILES` into a folder, which is made if it is missing.

    Args:
        name: of the model, for the title of the card.
        half: store the weights as 16-bit floating-point numbers; statistics of batch norms stay in 32 bits.
        licence: of the weights, in the hub's words ("apache-2.0"); None: the card says that none is given.

    Returns:
        the folder.

    Raises:
        CheckpointError: the weights hold values that are not finite.
        OSError: a file could not be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: _stored(key, value, half) for key, value in model.weights.items()}
    cfg = _impersonal(model.cfg, model.class_names)
    write_atomically(folder / SHARED_WEIGHTS, lambda file: file.write(_file_of(weights)))
    write_text_atomically(folder / CONFIG_FILE, cfg.dump())
    write_text_atomically(folder / CARD_FILE, card_of(model, name=name, half=half, licence=licence))
    return folder


def _file_of(weights: dict[str, Tensor]) -> bytes:
    """A safetensors file that holds the SHA-256 of its tensors, as :func:`detkit.checkpoint.read_checkpoint` asks for where it is there."""
    plain = save(weights)
    digest = hashlib.sha256(plain[8 + int.from_bytes(plain[:8], "little") :]).hexdigest()
    return save(weights, metadata={"format": "pt", "modelspec.hash_sha256": f"0x{digest}"})


def _stored(key: str, value: Tensor, half: bool) -> Tensor:
    value = value.detach().cpu().clone().contiguous()
    if not value.is_floating_point():
        return value
    if not value.isfinite().all():
        raise CheckpointError(f"The weights '{key}' are not finite, so the model predicts nothing. Share an earlier checkpoint.")
    halved = value.half()
    fits = halved.isfinite().all() and not key.endswith((".running_mean", ".running_var"))
    return halved if half and fits else value.float()


def _impersonal(cfg: CfgNode, class_names: Sequence[str]) -> CfgNode:
    """The config with the names of its classes and without places on the machine of the training."""
    cfg = cfg.clone()
    cfg.defrost()
    for key in _PLACES:
        cfg.DATASETS[key] = ""
    cfg.DATASETS.CLASS_NAMES = list(class_names)
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = "", "./output"
    if torch.device(cfg.MODEL.DEVICE).type != "cpu":
        cfg.MODEL.DEVICE = "cuda"
    cfg.freeze()
    return cfg


def read_shared_model(folder: str | os.PathLike[str]) -> tuple[CfgNode, dict[str, Any]]:
    """The config of a shared model, and its content as :func:`detkit.checkpoint.read_checkpoint` gives that of a checkpoint.

    Raises:
        CheckpointError: the folder holds no such model.
        ConfigError: its config is broken.
    """
    folder = Path(folder)
    missing = [name for name in (SHARED_WEIGHTS, CONFIG_FILE) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"'{folder}' holds no shared model: {' and '.join(missing)} missing. tools/share.py makes such a folder from a run; a run "
            "itself is read with Predictor.from_run."
        )
    cfg = get_cfg()
    cfg.merge_from_file(folder / CONFIG_FILE)
    return cfg, read_checkpoint(folder / SHARED_WEIGHTS) | {"classes": list(cfg.DATASETS.CLASS_NAMES)}
