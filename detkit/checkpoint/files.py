"""The only place where weights are read: never by running what a file contains."""

from __future__ import annotations

import pickle
import re
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint.c2_model_loading import convert_basic_c2_names
from safetensors import SafetensorError
from safetensors.torch import load_file

from .errors import CheckpointError
from .soundness import check_archive, check_stored_hash
from .unpickling import is_pickle, load_pickle_safely

__all__ = ["CheckpointError", "read_checkpoint"]


def read_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """Reads a file of weights into the memory of the CPU.

    Three formats: ``.safetensors``, told by the suffix; files of ``torch.save``, whatever they are called, read with
    ``weights_only=True`` or, where other objects lie beside the weights, by :func:`detkit.checkpoint.load_pickle_safely`; pickles of
    arrays, as in Detectron2's model zoo (``.pkl``), read by that function as well.

    A file whose bytes have changed is refused where its format has checksums: all that ``torch.save`` writes since torch 1.6, and
    safetensors with a hash in their metadata.

    Returns:
        what the file holds, a dict. Under ``"model"`` stands the state dict; where a file is a bare state dict, it is put there.

    Raises:
        CheckpointError: file missing, damaged, without a dict of tensors, or holding objects that could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint '{path}': check MODEL.WEIGHTS.")
    if path.suffix == ".safetensors":
        content: Any = _read_safetensors(path)
    elif is_pickle(path):
        content = _with_detectron2_names(load_pickle_safely(path))
    else:
        content = _read_torch(path)
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds no state dict, but a {type(content).__name__} of {_size(content)} entries.")
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            content["model"] = content.pop(wrapper)
            return content
    return {"model": content}


#: keys under which published files hold their state dict
_WRAPPERS = ("model", "state_dict", "model_state", "online_network_state_dict")


def _size(content: Any) -> int:
    return len(content) if hasattr(content, "__len__") else 0


def _read_torch(path: Path) -> Any:
    check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        if isinstance(error, pickle.UnpicklingError) and _REFUSED.search(str(error)):
            return load_pickle_safely(path)
        reason = type(error).__name__ if isinstance(error, pickle.UnpicklingError) else str(error) or type(error).__name__
        raise CheckpointError(f"{path} is no file of torch.save, or it is damaged: {reason}") from None


#: how torch names a class or function that it does not call
_REFUSED = re.compile(r"^.*(?:\bglobal\b|unsupported class|is blocked).*$", re.IGNORECASE | re.MULTILINE)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no safetensors file, or it is damaged: {error}") from None
    check_stored_hash(path)
    return weights


def _with_detectron2_names(content: Any) -> Any:
    """Renames the keys of a Caffe2 file (``conv1_w``, ``res2_0_branch2a_bn_s``), as MSRA's ResNets are; leaves others as they are."""
    if not isinstance(content, dict) or any(isinstance(content.get(wrapper), dict) for wrapper in _WRAPPERS):
        return content
    blobs = content.get("blobs", content)
    if not any(isinstance(value, np.ndarray) for value in blobs.values()):
        return content
    arrays = {key: value for key, value in blobs.items() if isinstance(value, np.ndarray) and not key.endswith("_momentum")}
    return dict(zip(convert_basic_c2_names(list(arrays)), arrays.values(), strict=True))
