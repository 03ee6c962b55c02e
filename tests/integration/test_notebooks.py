"""The notebooks run from the first cell to the last, as a user runs them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from detkit.checkpoint import add_zoo_file
from detkit.config import get_cfg
from detkit.config_files import get_config_file
from detkit.engine import Trainer

FOLDER = Path(__file__).parents[2] / "projects" / "notebooks"


def run_notebook(name: str, folder: Path) -> list[dict]:
    """The outputs of all cells; ``nbclient`` raises what a cell raises."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "notebooks are kept without outputs"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def pictures(outputs: list[dict]) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.fixture
def caches(tmp_path: Path, small_shapes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's caches: a few generated pictures, no weights."""
    (tmp_path / "detkit").mkdir()
    (tmp_path / "detkit" / "shapes-2").symlink_to(small_shapes, target_is_directory=True)
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "detkit"))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "fvcore"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER.parents[1]), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


def test_what_assigners_pick(caches: Path) -> None:
    assert pictures(run_notebook("what_assigners_pick", caches)) == 3


@pytest.mark.slow
def test_predict(caches: Path) -> None:
    """With untrained weights under the name."""
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file("quick/fcos_shapes_8_classes.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    torch.save(Trainer.build_model(cfg).state_dict(), caches / "weights.pth")
    add_zoo_file("quick_fcos_shapes", caches / "weights.pth")
    assert pictures(run_notebook("predict", caches)) == 2


@pytest.mark.slow
def test_train_on_own_data(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETKIT_NOTEBOOK_ITERATIONS", "5")
    outputs = run_notebook("train_on_own_data", caches)
    assert pictures(outputs) == 2
    assert "README.md config.yaml model.safetensors" in "".join(output.get("text", "") for output in outputs)
    assert outputs[-1]["data"]["text/plain"] in ("True", "False")  # halved weights may swap two classes of an untrained model
