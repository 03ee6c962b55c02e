"""The small models of our own: made by one command, found by their names."""

from __future__ import annotations

import importlib.util
import subprocess
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import detkit
from detkit.checkpoint import CheckpointError
from detkit.data import register_shapes
from detkit.engine import run

_SPEC = importlib.util.spec_from_file_location("quick_models", Path(__file__).parents[2] / "tools" / "quick_models.py")
assert _SPEC and _SPEC.loader
quick_models = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(quick_models)


@pytest.fixture
def caches(tmp_path: Path, small_shapes: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's caches: a few generated pictures, no weights."""
    (tmp_path / "shapes-2").symlink_to(small_shapes, target_is_directory=True)
    with monkeypatch.context() as patch:
        patch.setenv("DETKIT_CACHE", str(tmp_path))
        patch.setenv("FVCORE_CACHE", str(tmp_path / "fvcore"))
        register_shapes()
        yield tmp_path
    register_shapes()


def test_a_name_that_is_not_made_says_the_command(caches: Path) -> None:
    with pytest.raises(CheckpointError, match=r"made and not fetched.*python tools/quick_models\.py quick_fcos_shapes"):
        detkit.Predictor("quick_fcos_shapes")


def test_made_once_and_found_by_name(caches: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    commands = []

    def short(command: list[str], **_: Any) -> subprocess.CompletedProcess:
        """The training that is asked for, of one iteration and in this process."""
        commands.append(command)
        words = ["SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "2", "TEST.EXPECTED_RESULTS", "[]", "INPUT.MIN_SIZE_TRAIN", "(64,)"]
        run([*command[2:], *words, "INPUT.MIN_SIZE_TEST", "64"])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(quick_models, "subprocess", types.SimpleNamespace(run=short))
    for _ in range(2):
        quick_models.main(["quick_fcos_shapes"])
        assert "quick_fcos_shapes: 4." in capsys.readouterr().out
    assert len(commands) == 1 and Path(commands[0][1]).name == "train_net.py" and commands[0][3].endswith("quick/fcos_shapes.yaml")
    predictor = detkit.Predictor("quick_fcos_shapes")
    assert predictor.class_names[:2] == ["person", "ellipse"] and len(predictor.class_names) == 8
    shared = detkit.Predictor.from_hub(caches / "models" / "quick_fcos_shapes")
    torch.testing.assert_close(shared.model.state_dict(), predictor.model.state_dict())


def test_bad_words_and_failed_trainings(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="error: there is no small model 'quick'"):
        quick_models.main(["quick"])
    failing = types.SimpleNamespace(run=lambda command, **_: subprocess.CompletedProcess(command, 1))
    monkeypatch.setattr(quick_models, "subprocess", failing)
    with pytest.raises(SystemExit, match=r"error: The training of 'quick_fcos_shapes' has failed; .*log\.txt says why"):
        quick_models.main(["quick_fcos_shapes"])
