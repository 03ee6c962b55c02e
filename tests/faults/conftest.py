"""What several files of tests of faults use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .file_server import FileServer, serving


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETKIT_CONNECT_TIMEOUT", "0.5")
    monkeypatch.setenv("DETKIT_READ_TIMEOUT", "0.4")
    monkeypatch.setenv("DETKIT_DOWNLOAD_ATTEMPTS", "2")
    monkeypatch.setenv("no_proxy", "*")
    with serving() as files:
        yield files
