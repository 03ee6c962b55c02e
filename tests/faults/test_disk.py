"""A disk that is full, a folder that cannot be used, a second run in it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from detkit.checkpoint import WriteError, write_atomically
from detkit.engine import run_folder
from detkit.engine.exits import ExitCode
from detkit.engine.run_folder import LOCK_FILE, RunFolderError, check_room, folder_in_use
from tests.toys.own_data import OwnData

from .endings import assert_ends_well, assert_goes_through


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many kilobytes; skipped where that is not allowed."""
    mounted: list[Path] = []

    def mount(kilobytes: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
            pytest.skip("file systems cannot be mounted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_without_room_for_one_checkpoint_is_refused_before_training(own_data: OwnData, small_disk: Callable[[int], Path]) -> None:
    outcome = own_data.run(output=small_disk(100) / "out")
    assert_ends_well(outcome, r"disk of OUTPUT_DIR .* free, and one checkpoint takes .* are missing", code=ExitCode.STORAGE)


def test_a_disk_that_fills_keeps_the_checkpoint_before(own_data: OwnData, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(6000)
    words = ("SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.MAX_ITER", "60", "SOLVER.CHECKPOINT_KEEP", "0")
    outcome = own_data.run(*words, output=disk / "out")
    assert_ends_well(outcome, r"\.pth could not be written: No space left on device.*the file takes .*Make room", code=ExitCode.STORAGE)
    kept = (disk / "out" / "last_checkpoint").read_text()
    again = own_data.run(*words, output=disk / "out", flags=("--resume",))
    assert_ends_well(again, r"could not be written|are missing", code=ExitCode.STORAGE)
    assert (disk / "out" / "last_checkpoint").read_text() == kept
    (*others, last) = sorted((disk / "out").glob("model_*.pth"))
    for path in others:
        path.unlink()
    done = int(last.stem.removeprefix("model_"))
    too_few = own_data.run(*words[:2], "SOLVER.MAX_ITER", str(done), output=disk / "out", flags=("--resume",))
    assert_ends_well(too_few, rf"SOLVER.MAX_ITER is {done}, but the last checkpoint .* iteration {done}", code=ExitCode.CONFIG)
    words = ("SOLVER.CHECKPOINT_PERIOD", "0", "SOLVER.MAX_ITER", str(done + 2))
    assert_goes_through(own_data.run(*words, output=disk / "out", flags=("--resume",)), "Resuming after")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_log_that_cannot_be_written_stops_nothing(own_data: OwnData) -> None:
    output = own_data.root / "out"
    output.mkdir()
    (output / "log.txt").symlink_to("/dev/full")
    outcome = own_data.run(output=output)
    assert_goes_through(outcome, r"log\.txt cannot be written any more: No space left")
    assert outcome.console.count("cannot be written any more") == 1


def test_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(100, 0, 3_000_000))
    with pytest.raises(RunFolderError, match=r"3 MB free, and one checkpoint takes 4 MB: 1 MB are missing"):
        check_room(tmp_path, size=4_000_000, count=1)
    check_room(tmp_path, size=1_000_000, count=2)


def test_a_write_that_fails_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(100, 0, 3_000_000))

    def fail(file: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(WriteError, match=r"3 MB free, and the file takes 4 MB: 1 MB are missing"):
        write_atomically(tmp_path / "x", fail, size=4_000_000)


@pytest.mark.parametrize("name", ["metrics.json", "log.txt", "run.json", "last_checkpoint"])
def test_a_folder_in_the_place_of_a_file_is_named(own_data: OwnData, name: str) -> None:
    (own_data.root / "out" / name).mkdir(parents=True)
    assert_ends_well(own_data.run(output=own_data.root / "out"), rf"{name} is a folder.*Move it away", code=ExitCode.STORAGE)


@pytest.mark.parametrize("name", ["metrics.json", "run.json", "last_checkpoint"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
@pytest.mark.parametrize("flags", [(), ("--resume",)], ids=["new", "resumed"])
def test_what_has_no_end_in_the_place_of_a_file_is_named(own_data: OwnData, name: str, make: Callable, flags: tuple[str, ...]) -> None:
    (own_data.root / "out").mkdir()
    make(own_data.root / "out" / name)
    outcome = own_data.run(output=own_data.root / "out", flags=flags)
    assert_ends_well(outcome, rf"{name} is a pipe or a device.*Move it away", code=ExitCode.STORAGE)


def test_an_output_folder_that_cannot_be_is_named(own_data: OwnData) -> None:
    (own_data.root / "file").write_text("")
    assert_ends_well(own_data.run(output=own_data.root / "file"), r"OUTPUT_DIR .*file is no folder", code=ExitCode.STORAGE)
    if Path("/proc/self").exists():
        assert_ends_well(
            own_data.run(output=Path("/proc/nothing")), r"OUTPUT_DIR /proc/nothing cannot be written to", code=ExitCode.STORAGE
        )


# one run at a time ---------------------------------------------------------------------------------------------------------------------

_HOLDER = """
import sys, time
from pathlib import Path
sys.modules["detkit.checkpoint"] = type(sys)("stub")
for name in ("CONFIG_FILE", "LAST_CHECKPOINT", "RUN_FILE", "readable_size"):
    setattr(sys.modules["detkit.checkpoint"], name, name)
import importlib.util
spec = importlib.util.spec_from_file_location("run_folder", sys.argv[1])
run_folder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run_folder)
with run_folder.folder_in_use(sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def _other_run(folder: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the folder; it needs no torch."""
    words = [sys.executable, "-c", _HOLDER, run_folder.__file__, str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("flags", [(), ("--resume",), ("--eval-only",)])
def test_a_second_run_in_a_folder_is_refused(own_data: OwnData, flags: tuple[str, ...]) -> None:
    output = own_data.root / "out"
    with _other_run(output) as other:
        outcome = own_data.run(output=output, flags=flags)
        assert_ends_well(
            outcome, rf"Another run is using OUTPUT_DIR .*process {other.pid} on .*started 20.*another OUTPUT_DIR", code=ExitCode.STORAGE
        )
        assert {path.name for path in output.iterdir()} == {LOCK_FILE}
    if "--eval-only" not in flags:
        assert_goes_through(own_data.run(output=output, flags=flags), "was left by a run that has ended")
        assert not (output / LOCK_FILE).exists()


def test_a_lock_of_another_machine_is_watched_for_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "STALE", 0.3)
    lock = tmp_path / LOCK_FILE

    def leave() -> None:
        lock.write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": "2026-01-01"}))

    leave()
    with folder_in_use(tmp_path):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    leave()
    looks = iter(range(1000))
    monkeypatch.setattr("time.sleep", lambda _: os.utime(lock, ns=(next(looks), next(looks))))
    with pytest.raises(RunFolderError, match="process 1 on elsewhere, started 2026-01-01"), folder_in_use(tmp_path):
        pass


def test_a_process_may_ask_again_for_its_own_folder(tmp_path: Path) -> None:
    with folder_in_use(tmp_path):
        with folder_in_use(tmp_path):
            pass
        assert (tmp_path / LOCK_FILE).exists()
    assert not (tmp_path / LOCK_FILE).exists()


def test_an_evaluation_that_fails_leaves_its_detections_and_is_repeated(own_data: OwnData, monkeypatch: pytest.MonkeyPatch) -> None:
    output = own_data.root / "out"

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("detkit.evaluation.detections.CocoEvaluation", fail)
        assert_ends_well(own_data.run(output=output), "Input/output error")
    assert (output / "inference" / "custom_val" / "coco_instances_results.json").exists()
    assert_goes_through(own_data.run(output=output, flags=("--eval-only", "--resume")), "custom_val, bbox")
