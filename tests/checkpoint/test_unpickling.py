"""Pickles are data here: what published files hold is read, and nothing that they contain is run."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import sys
import types
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detkit.checkpoint import CheckpointError, load_pickle_safely, read_checkpoint
from detkit.checkpoint.unpickling import _KNOWN, _Function


@pytest.fixture
def framework(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A package that is there while files are written. Each of its classes would leave a trace if a file were to use it."""
    module = types.ModuleType("mmengine.objects")

    class HistoryBuffer:
        def __init__(self) -> None:
            self.max_length, self._log_history = 10, np.array([1.0, 2.0])
            self.statistics = HistoryBuffer.min

        def min(self) -> float:
            return 0.0

        def __setstate__(self, state: Any) -> None:
            raise AssertionError("run")

    class ConfigDict(dict):  # type: ignore[type-arg]
        def __setitem__(self, key: Any, value: Any) -> None:
            raise AssertionError("run")

    class Items(list):  # type: ignore[type-arg]
        pass

    for kind in (HistoryBuffer, ConfigDict, Items):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    HistoryBuffer.min.__qualname__ = "HistoryBuffer.min"
    HistoryBuffer.min.__module__ = module.__name__
    monkeypatch.setitem(sys.modules, "mmengine", types.ModuleType("mmengine"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def published(framework: types.ModuleType) -> dict[str, Any]:
    """What lies in files of mmengine and of others."""
    state = OrderedDict(weight=torch.arange(6.0).reshape(2, 3).t(), half=torch.ones(2).half(), parameter=torch.nn.Parameter(torch.ones(2)))
    state._metadata = OrderedDict()  # type: ignore[attr-defined]
    config = framework.ConfigDict(model=framework.ConfigDict(depth=50))
    return {
        "state_dict": state,
        "message_hub": {"log_scalars": OrderedDict(loss=framework.HistoryBuffer()), "items": framework.Items([1, 2])},
        "meta": {
            "config": config,
            "classes": ("a", "b"),
            "best": np.float64(3),
            "iter": np.int64(2),
            "path": Path("a/b"),
            "args": argparse.Namespace(lr=0.1),
            "counts": Counter(a=1),
            "by_name": defaultdict(int, a=1),
            "size": torch.Size([1, 2]),
            "type": torch.float16,
            "names": np.array(["a", "b"]),
        },
    }


def _torch(content: Any, path: Path, **options: Any) -> None:
    torch.save(content, path, **options)


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "zip.pth": _torch,
    "legacy.pth": lambda content, path: _torch(content, path, _use_new_zipfile_serialization=False),
    **{f"{protocol}.pkl": lambda content, path, p=protocol: path.write_bytes(pickle.dumps(content, p)) for protocol in range(6)},
}


@pytest.mark.parametrize("name", WRITERS)
def test_weights_and_what_lies_beside_them(tmp_path, framework, monkeypatch, name):
    path, content = tmp_path / name, published(framework)
    WRITERS[name](content, path)
    monkeypatch.delitem(sys.modules, framework.__name__)
    monkeypatch.delitem(sys.modules, "mmengine")
    read = load_pickle_safely(path)
    torch.testing.assert_close(dict(read["state_dict"]), {key: value.detach() for key, value in content["state_dict"].items()})
    meta, buffer = read["meta"], read["message_hub"]["log_scalars"]["loss"]
    assert meta["config"] == {"model": {"depth": 50}}
    assert meta["args"] == {"lr": 0.1}
    assert (meta["classes"], meta["best"], meta["iter"]) == (("a", "b"), 3, 2)
    assert (meta["counts"], meta["by_name"], meta["size"], meta["type"]) == (Counter(a=1), {"a": 1}, torch.Size([1, 2]), torch.float16)
    assert meta["names"].tolist() == ["a", "b"]
    np.testing.assert_array_equal(buffer["_log_history"], [1, 2])
    assert buffer["max_length"] == 10
    torch.testing.assert_close(read_checkpoint(path)["model"]["weight"], content["state_dict"]["weight"])


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.function, self.args, self.state = function, args, state

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.function, self.args) if self.state is None else (self.function, self.args, self.state)


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _hostile_storage(trace: str) -> bytes:
    buffer = io.BytesIO()
    torch.save(Calls(os.mkdir, trace), buffer)
    return buffer.getvalue()


HOSTILE = {
    "mkdir": lambda trace: pickle.dumps(Calls(os.mkdir, trace)),
    "eval": lambda trace: pickle.dumps(Calls(eval, f"__import__('os').mkdir({trace!r})")),
    "a chain of attributes": lambda trace: _global("builtins", "getattr") + _global("os", "path") + b"S'join'\n\x86R.",
    "an attribute of what is known": lambda trace: pickle.dumps(Calls(getattr, OrderedDict, "__init__")),
    "dotted names": lambda trace: b"\x80\x04\x8c\x0bcollections\x8c\x1dOrderedDict.__init__.__globals__\x93.",
    "an import": lambda trace: _global("tests.checkpoint.nowhere", "f") + b".",
    "a framework's function": lambda trace: _global("torch.hub", "load") + b"(S'x'\ntR.",
    "torch.load": lambda trace: _global("torch.serialization", "load") + f"(S{trace!r}\ntR.".encode(),
    "numpy.load": lambda trace: _global("numpy", "load") + f"(S{trace!r}\ntR.".encode(),
    "storage of a hostile file": lambda trace: (
        _global("torch.storage", "_load_from_bytes") + pickle.dumps(_hostile_storage(trace), 2)[2:-1] + b"\x85R."
    ),
    "change of a function": lambda trace: _global("_codecs", "encode") + b"N}S'__code__'\nI1\ns\x86b.",
    "change of a class": lambda trace: _global("collections", "OrderedDict") + b"N}S'keys'\nI1\ns\x86b.",
    "an extension code": lambda trace: b"\x80\x02\x82\x01.",
    "a persistent id": lambda trace: b"Pname\n.",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_hostile_pickles_are_refused_in_one_line(tmp_path, name, suffix):
    trace, path = tmp_path / "trace", tmp_path / f"hostile{suffix}"
    path.write_bytes(HOSTILE[name](str(trace)))
    if suffix == ".pth":  # within a file of torch.save
        archive = tmp_path / "archive.pth"
        torch.save({"a": torch.zeros(1)}, archive)
        _replace_pickle(archive, path)
    with pytest.raises(CheckpointError) as error:
        load_pickle_safely(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not trace.exists()
    assert OrderedDict(a=1).keys() == {"a"}


def _replace_pickle(archive: Path, pickled: Path) -> None:
    """Puts a pickle into an archive of torch, in the place of its own."""
    import zipfile

    content = pickled.read_bytes()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(pickled, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, content if entry.endswith("data.pkl") else old.read(entry))


def test_nothing_that_can_be_changed_is_handed_out():
    functions = [value for value in _KNOWN.values() if not isinstance(value, type)]
    assert functions and all(isinstance(function, _Function) for function in functions)
    for kind in {value for value in _KNOWN.values() if isinstance(value, type)}:
        with pytest.raises(TypeError):
            kind.something = 1


def test_tensors_pickled_without_torch_save(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": torch.arange(3.0)}}))
    torch.testing.assert_close(read_checkpoint(path)["model"]["a"], torch.arange(3.0))


def test_programs_of_torchscript_are_refused(tmp_path):
    path = tmp_path / "script.pth"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1, 1)), path)
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_pickle_safely(path)
