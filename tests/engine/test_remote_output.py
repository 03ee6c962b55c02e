"""A run whose OUTPUT_DIR is an address, on fsspec's file system in memory."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from detkit.engine import remote_output
from detkit.engine.exits import ExitCode
from detkit.engine.remote_output import is_remote, mirrored, working_folder
from tests.faults.endings import assert_ends_well, assert_goes_through
from tests.toys.own_data import OwnData

ADDRESS = "memory://bucket/run"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    fsspec.filesystem("memory").store.clear()


def _there() -> set[str]:
    storage = fsspec.filesystem("memory")
    return {name.removeprefix("/bucket/run/") for name in storage.find("/bucket/run")}


def test_a_run_is_kept_and_resumed_elsewhere(own_data: OwnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("OUTPUT_DIR", ADDRESS, "SOLVER.CHECKPOINT_PERIOD", "1")
    assert_goes_through(own_data.run(*words))
    assert _there() >= {"model_final.pth", "last_checkpoint", "results.json", "run.json", "log.txt"}
    assert "inference/custom_val/coco_instances_results.json" in _there()
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "another machine")
    assert_goes_through(own_data.run(*words, "SOLVER.MAX_ITER", "4", flags=("--resume",)), "Resuming after iteration 1")
    assert_goes_through(own_data.run(*words, flags=("--eval-only", "--resume")), "bbox")


def test_a_checkpoint_arrives_before_its_name_and_goes_when_it_is_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_output, "_LOOK", 0.01)
    folder = tmp_path / "work"
    order: list[str] = []
    original = remote_output._Mirror._put
    monkeypatch.setattr(remote_output._Mirror, "_put", lambda self, name: (order.append(name), original(self, name))[1])
    with mirrored(ADDRESS, folder, send=True):
        (folder / "model_0000001.pth").write_bytes(b"1")
        (folder / ".model_0000002.pth.7.tmp").write_bytes(b"half")
        (folder / "last_checkpoint").write_text("model_0000001.pth")
    assert _there() == {"model_0000001.pth", "last_checkpoint"} and order[-1] == "last_checkpoint"
    with mirrored(ADDRESS, folder, send=True):
        (folder / "model_0000001.pth").unlink()
    assert _there() == {"last_checkpoint"}


def test_addresses_that_cannot_be_opened_are_named(own_data: OwnData) -> None:
    assert_ends_well(
        own_data.run("OUTPUT_DIR", "nowhere://bucket/run"), "OUTPUT_DIR nowhere://bucket/run cannot be opened", code=ExitCode.CONFIG
    )


def test_paths_are_no_addresses() -> None:
    assert is_remote(ADDRESS) and not any(map(is_remote, ("output", "./a/b", "/a", "C:/x", "C:\\x")))
    assert working_folder(ADDRESS) == working_folder(ADDRESS + "/") != working_folder("memory://other/run")
