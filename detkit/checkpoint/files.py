"""The only place where weights are read: never by running what a file contains."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
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

__all__ = ["CheckpointError", "read_checkpoint"]


def read_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """Reads a file of weights into the memory of the CPU.

    Three formats, told apart by the suffix: ``.safetensors``; ``.pkl`` (numpy arrays, as in Detectron2's model zoo); anything else is a
    file of ``torch.save``, read with ``weights_only=True``. A file whose bytes have changed is refused where its format has checksums:
    all that ``torch.save`` writes since torch 1.6, and safetensors with a hash in their metadata.

    Returns:
        what the file holds, a dict. Under ``"model"`` stands the state dict; where a file is a bare state dict, it is put there.

    Raises:
        CheckpointError: file missing, damaged, without a dict of tensors, or holding objects that could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint '{path}': check MODEL.WEIGHTS.")
    readers = {".safetensors": _read_safetensors, ".pkl": _read_pickle}
    content = readers.get(path.suffix, _read_torch)(path)
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds no state dict, but a {type(content).__name__} of {_size(content)} entries.")
    for wrapper in ("model", "state_dict", "model_state", "online_network_state_dict"):
        if isinstance(content.get(wrapper), dict):
            content["model"] = content.pop(wrapper)
            return content
    return {"model": content}


def _size(content: Any) -> int:
    return len(content) if hasattr(content, "__len__") else 0


def _read_torch(path: Path) -> Any:
    check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        refused = _REFUSED.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if refused:
            raise CheckpointError(
                f"{path} holds more than tensors, numbers and texts, and reading that could run code: {refused[0].strip()} "
                "If you trust the file, save its state dict alone with the code that wrote it."
            ) from None
        reason = type(error).__name__ if isinstance(error, pickle.UnpicklingError) else str(error) or type(error).__name__
        raise CheckpointError(f"{path} is no file of torch.save, or it is damaged: {reason}") from None


#: the line in which torch names the class or function that it does not call
_REFUSED = re.compile(r"^.*(?:\bglobal\b|unsupported class|is blocked).*$", re.IGNORECASE | re.MULTILINE)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no safetensors file, or it is damaged: {error}") from None
    check_stored_hash(path)
    return weights


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        try:
            content = _ArrayUnpickler(file, encoding="latin1").load()
        except pickle.UnpicklingError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise CheckpointError(f"{path} is no pickle of arrays, or it is damaged: {error or type(error).__name__}") from None
    return _with_detectron2_names(content) if isinstance(content, dict) else content


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of numpy arrays in plain containers, and refuses every other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core.", "numpy.core.")  # numpy 2 and 1
        allowed: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy.core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
            ("numpy.core.numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("collections", "OrderedDict"): OrderedDict,
            ("_codecs", "encode"): _encode_latin1,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(
                f"it asks for '{module}.{name}', and only numpy arrays in dicts, lists and tuples are read from a .pkl: "
                "reading more could run code."
            )
        return allowed[module, name]


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """How Python 2 strings of bytes stand in a pickle of protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding '{encoding}', and arrays need latin1 alone.")
    return text.encode("latin1")


def _with_detectron2_names(content: dict[str, Any]) -> dict[str, Any]:
    """Renames the keys of a Caffe2 file (``conv1_w``, ``res2_0_branch2a_bn_s``), as MSRA's ResNets are; leaves others as they are."""
    if "model" in content:
        return content
    blobs = content.get("blobs", content)
    arrays = {key: value for key, value in blobs.items() if isinstance(value, np.ndarray) and not key.endswith("_momentum")}
    return dict(zip(convert_basic_c2_names(list(arrays)), arrays.values(), strict=True))
