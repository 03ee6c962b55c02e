"""Reading pickles of weights without running what they contain.

A pickle is a program: it names functions and calls them. Here it gets those alone that published files of weights need, each in a form
that makes data and does nothing else: numpy's arrays and scalars, torch's tensors, the containers of the standard library. Objects of
training frameworks that lie beside the weights (mmengine's ``message_hub``, the configs of mmcv and yacs, command lines of ``argparse``)
are read as plain dicts of what they hold; their classes are neither looked up nor imported. Everything else is refused by name.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import tarfile
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from .errors import CheckpointError

__all__ = ["is_pickle", "is_torch_file", "load_pickle_safely", "safe_load"]

#: packages whose objects are read as plain data, by the first part of their name
_FRAMEWORKS = frozenset({"argparse", "datetime", "fvcore", "mmcv", "mmdet", "mmengine", "mmpretrain", "omegaconf", "pathlib", "yacs"})
#: how the files of ``torch.save`` begin: a zip archive; before torch 1.6 a pickle of this number
_ZIP = b"PK\x03\x04"
_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


def load_pickle_safely(path: str | PathLike[str]) -> Any:
    """What a pickle holds, or a file of ``torch.save`` with more in it than torch reads with ``weights_only=True``.

    Args:
        path: of the file; which of the two it is is told by how it begins.

    Returns:
        the content: arrays and scalars of numpy, tensors in the memory of the CPU, containers, numbers and texts. Objects of training
        frameworks have become dicts: what a dict of theirs held, or what stood in ``__dict__``.

    Raises:
        CheckpointError: the file is damaged, or asks for a class or function that could run code; one line that names file and class.
    """
    path = Path(path)
    with _one_line_each(path):
        if is_torch_file(path):
            if _is_torchscript(path) or tarfile.is_tarfile(path):
                raise pickle.UnpicklingError("it is a program of TorchScript, or a tar archive: save the model's state dict instead")
            # torch takes its unpickler from the module that it is given
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_SAFE_PICKLE)
        with path.open("rb") as file:
            return _SafeUnpickler(file, encoding="latin1").load()


def safe_load(file: IO[bytes], *, encoding: str = "latin1", **_: Any) -> Any:
    """What ``pickle.load`` does, for the pickles that :func:`load_pickle_safely` reads.

    Raises:
        CheckpointError: see there.
    """
    with _one_line_each(getattr(file, "name", "a pickle")):
        return _SafeUnpickler(file, encoding=encoding).load()


@contextlib.contextmanager
def _one_line_each(path: object) -> Iterator[None]:
    try:
        yield
    except _Refused as error:
        raise CheckpointError(
            f"{path} is not read: it asks for {error}, and only arrays, tensors, numbers, texts and containers of them are read: "
            "reading more could run code. If you trust the file, save its state dict alone with the code that wrote it."
        ) from None
    except MemoryError:
        raise CheckpointError(f"{path} asks for more memory than there is: it is damaged, or not what it seems to be.") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise CheckpointError(f"{path} is no pickle of arrays, or it is damaged: {_one_line(error)}") from None


def is_torch_file(path: str | PathLike[str]) -> bool:
    """Whether a file begins as those of ``torch.save`` do, whatever its name ends in."""
    with open(path, "rb") as file:
        start = file.read(max(len(_ZIP), len(_LEGACY)))
    return start.startswith((_ZIP, _LEGACY))


def is_pickle(path: str | PathLike[str]) -> bool:
    """Whether a file is to be read as a pickle: by its name, or because it begins as one of Python 3 does; but none of ``torch.save``."""
    with open(path, "rb") as file:
        named_or_begun = Path(path).suffix == ".pkl" or file.read(1) == pickle.PROTO
    return named_or_begun and not is_torch_file(path)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class _Refused(pickle.UnpicklingError):
    """A class or function that is not known here."""


class _Function:
    """A function that a pickle may call, and can neither read nor change."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return object.__getattribute__(self, "_call")(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _Refused(f"a change of the attribute '{name}' of a function")

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a change of a function")

    def __reduce__(self) -> Any:
        raise TypeError("functions of the reader of pickles are not written")


class _PlainObject(dict):
    """An object of a training framework, read as a dict of what it holds."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _PlainObject:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        if args:
            self["args"] = args

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.update(part)

    def append(self, value: Any) -> None:
        """Objects that are lists, as well."""
        self.setdefault("items", []).append(value)

    def extend(self, values: Any) -> None:
        self.setdefault("items", []).extend(values)


class _SafeUnpickler(pickle.Unpickler):
    """Knows the classes and functions of :data:`_KNOWN`, torch's types, and the names of frameworks."""

    def __init__(self, file: IO[bytes], **options: Any) -> None:
        super().__init__(file, **options)
        self._plain: dict[str, type] = {}

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core.", "numpy.core.")  # numpy 2 and 1
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module == "numpy" and name in _SCALARS:
            return _SCALARS[name]
        if module.partition(".")[0] in _FRAMEWORKS:
            full = f"{module}.{name}"
            # a class of its own for this file: what a file does to a class must not outlast it
            return self._plain.setdefault(full, type(name.rpartition(".")[2], (_PlainObject,), {}))
        raise _Refused(f"'{module}.{name}'")


def _load(file: IO[bytes], **options: Any) -> Any:
    return _SafeUnpickler(file, **options).load()


#: stands for the module ``pickle`` where torch is given one
_SAFE_PICKLE = SimpleNamespace(__name__="pickle", Unpickler=_SafeUnpickler, load=_load, UnpicklingError=pickle.UnpicklingError)


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """How Python 2 strings of bytes stand in a pickle of protocol 2."""
    if encoding != "latin1":
        raise _Refused(f"the encoding '{encoding}' (arrays need latin1 alone)")
    return text.encode("latin1")


def _storage_from_bytes(content: bytes) -> Any:
    """Tensors that were pickled without ``torch.save``: each storage is a file of ``torch.save`` of its own."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _parameter(data: Tensor, requires_grad: bool, hooks: Any) -> Tensor:
    return data


def _attribute(owner: Any, name: str) -> dict[str, Any]:
    """Methods of a framework's objects stand in pickles as attributes of their class."""
    if not (isinstance(owner, type) and issubclass(owner, _PlainObject)):
        raise _Refused(f"the attribute '{name}' of '{getattr(owner, '__name__', type(owner).__name__)}'")
    return _PlainObject()


def _tensor(*args: Any) -> Tensor:
    return torch._utils._rebuild_tensor_v2(*args[:5], OrderedDict())  # type: ignore[call-arg]


def _array_function(name: str) -> _Function:
    """A function that numpy's own pickles name, found through what it is for: numpy 1 and 2 keep it in different places."""
    found: dict[str, Any] = {
        "_reconstruct": np.empty(0).__reduce__()[0],
        "scalar": np.float64(0).__reduce__()[0],
        "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
    }
    return _Function(found[name])


def _new_object(kind: Any, base: Any, state: Any) -> dict[str, Any]:
    """How objects stand in pickles of protocol 0 and 1."""
    if not (isinstance(kind, type) and issubclass(kind, _PlainObject)):
        raise _Refused("an object without its constructor")
    plain: dict[str, Any] = kind()
    plain.update(state if isinstance(state, dict) else {})
    return plain


#: numpy's numbers and texts, by name
_SCALARS = {np.dtype(code).type.__name__: np.dtype(code).type for code in np.typecodes["All"]}
#: by module and name; of classes only those that cannot be changed, since a pickle may try to
_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _array_function("_reconstruct"),
    ("numpy.core.multiarray", "scalar"): _array_function("scalar"),
    ("numpy.core.numeric", "_frombuffer"): _array_function("_frombuffer"),
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "Counter"): _Function(lambda *args: Counter(*args)),
    ("collections", "defaultdict"): defaultdict,
    ("collections", "deque"): deque,
    ("torch._utils", "_rebuild_tensor"): _Function(torch._utils._rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(_parameter),
    ("torch.storage", "_load_from_bytes"): _Function(_storage_from_bytes),
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    **{
        (builtins, name): value
        for builtins in ("builtins", "__builtin__")
        for name, value in {
            **{kind.__name__: kind for kind in (set, frozenset, list, tuple, dict, int, float, complex, bool, str, bytes, bytearray)},
            "long": int,  # of Python 2, as is the next
            "unicode": str,
            "object": object,
            "getattr": _Function(_attribute),
        }.items()
    },
    ("_codecs", "encode"): _Function(_encode_latin1),
    ("copyreg", "_reconstructor"): _Function(_new_object),
    ("copy_reg", "_reconstructor"): _Function(_new_object),
}
