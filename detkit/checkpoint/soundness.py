"""Whether a file of weights still is what was written, and whether its tensors are numbers that a network can have."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import CheckpointError

__all__ = ["as_tensor", "check_archive", "check_stored_hash", "checked_weight", "non_finite"]

#: where the metadata of a safetensors file holds the SHA-256 of all that follows its header (the ModelSpec standard)
_HASH_KEY = "modelspec.hash_sha256"
#: bytes that are read at a time
_CHUNK = 2**20


def check_archive(path: Path) -> None:
    """Compares every entry of a zip archive with its checksum, which ``torch.load`` does not do.

    ``torch.save`` writes zip archives. The files of torch before 1.6, which are none, have no checksums and pass.

    Raises:
        CheckpointError: an entry is not what was written.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # a damaged archive can raise nearly anything
        raise CheckpointError(f"{path} is damaged: {error or type(error).__name__}. Fetch it again, or take another checkpoint.") from None
    if damaged is not None:
        raise CheckpointError(
            f"{path} is damaged: its entry '{damaged}' does not have the checksum that it was written with. Fetch it again, or take "
            "another checkpoint."
        )


def check_stored_hash(path: Path) -> None:
    """Compares the tensors of a safetensors file with the hash that its metadata holds, where there is one.

    Raises:
        CheckpointError: they are not what was hashed.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        metadata = json.loads(file.read(size)).get("__metadata__") or {}
        if _HASH_KEY not in metadata:
            return
        found = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    if found.hexdigest() != metadata[_HASH_KEY].lower().removeprefix("0x"):
        raise CheckpointError(f"{path} is damaged: its tensors do not have the hash of its metadata ({_HASH_KEY}). Fetch it again.")


def as_tensor(key: object, value: Any) -> Tensor:
    """An entry of a state dict as a dense tensor that can be copied.

    Raises:
        CheckpointError: its key is no text, or it is no array of numbers.
    """
    if not isinstance(key, str):
        raise CheckpointError(f"The key {key!r} of the checkpoint is of the type {type(key).__name__}. Keys of weights are texts.")
    if isinstance(value, np.ndarray):
        try:
            value = torch.from_numpy(value)
        except (TypeError, ValueError):  # objects or texts; strides that torch does not have
            raise CheckpointError(f"The entry '{key}' of the checkpoint is an array of {value.dtype}, not of plain numbers.") from None
    if not isinstance(value, Tensor):
        raise CheckpointError(f"The entry '{key}' of the checkpoint is a {type(value).__name__}, not a tensor.")
    if value.is_quantized or value.layout is not torch.strided:
        kind = "quantized" if value.is_quantized else "sparse"
        raise CheckpointError(f"The entry '{key}' of the checkpoint is a {kind} tensor. Save it as a plain one, of floating point.")
    return value


def checked_weight(key: str, value: Tensor, like: Tensor) -> Tensor:
    """A weight in the type of the one that it is for.

    Args:
        key: in the file, for messages.
        value: the weight.
        like: that of the model.

    Raises:
        CheckpointError: the model has numbers of floating point and these are whole, complex or truth values; or some are NaN or
            infinite.
    """
    if not like.is_floating_point():
        return value
    if not value.is_floating_point():
        raise CheckpointError(
            f"The entry '{key}' of the checkpoint is of {value.dtype}, but the model has {like.dtype}. Weights are numbers of floating "
            "point; those of a quantized model have to be multiplied by their scales first."
        )
    value = value.to(like.dtype)
    if value.is_meta:  # a shape without numbers, for a plan of what would be loaded
        return value
    bad = int((~value.isfinite()).sum())
    if bad:
        raise CheckpointError(
            f"The entry '{key}' of the checkpoint has {bad} of {value.numel()} numbers that are NaN or infinite, so its results would mean "
            "nothing. Take an earlier checkpoint."
        )
    return value


def non_finite(tree: Any, name: str = "") -> Iterator[str]:
    """Dotted names of the tensors with NaN or infinite numbers, in dicts and lists of any depth."""
    if isinstance(tree, Tensor):
        if tree.is_floating_point() and not bool(tree.isfinite().all()):
            yield name
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from non_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, (list, tuple)):
        for index, value in enumerate(tree):
            yield from non_finite(value, f"{name}.{index}")
