"""A model zoo of one small row, whose file lies on a server of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor

from detkit.config import get_cfg
from detkit.config_files import get_config_file
from detkit.model_zoo import ZooEntry, entries, table
from tests.toys.servers import serving

__all__ = ["CONFIG", "ROW", "served", "small_weights", "with_rows"]

CONFIG = "quick/fcos_mobilenetv2.yaml"
ROW = ZooEntry(
    name="fcos_small",
    config=CONFIG,
    source="nobody/nothing",
    page="https://example.org",
    licence="none",
    layout="detkit",
    split="val2017",
    ap=20.0,
)


def small_weights() -> dict[str, Tensor]:
    """Of the model of :data:`CONFIG`, as a training leaves them."""
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(CONFIG))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.WEIGHTS", ""])
    return build_model(cfg).state_dict()


def with_rows(monkeypatch: pytest.MonkeyPatch, *rows: ZooEntry) -> None:
    """Adds rows to the table, or replaces those of their names."""
    known = MappingProxyType({**entries(), **{row.name: row for row in rows}})
    for module in (table, __import__("detkit.checkpoint.belonging", fromlist=["entries"])):
        monkeypatch.setattr(module, "entries", lambda: known)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def served(folder: Path) -> AbstractContextManager[str]:
    """The address of a server that offers the files of a folder."""
    return serving(partial(_Quiet, directory=str(folder)))


@contextmanager
def zoo_with(folder: Path, monkeypatch: pytest.MonkeyPatch, content: Any, **changed: Any) -> Iterator[ZooEntry]:
    """The row with its file on a server, and a cache of its own."""
    files = folder / "server"
    files.mkdir()
    torch.save(content, files / "small.pth")
    monkeypatch.setenv("FVCORE_CACHE", str(folder / "cache"))
    with served(files) as address:
        row = replace(ROW, address=f"{address}/small.pth", **changed)
        with_rows(monkeypatch, row)
        yield row
