"""One exported file for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export.files import needs, write


@pytest.fixture(scope="session")
def fcos_file(tmp_path_factory) -> Path:
    """A file of any size and batch, of the classes cat, dog and bird."""
    needs("onnx", "onnxscript", "onnxruntime")
    return write("FCOS", tmp_path_factory.mktemp("onnx") / "fcos.onnx")
