from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from detkit.checkpoint import LAST_CHECKPOINT, CheckpointFolder, read_checkpoint, write_atomically


def _state(value: float) -> dict:
    return {"model": {"weight": torch.full((4,), value)}}


def _value(state) -> float:
    return state["model"]["weight"][0].item()


def _break(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_what_is_saved_is_the_last(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "new")
    assert folder.load_last(read_checkpoint) is None
    folder.save("model_0000009", _state(1))
    folder.save("model_0000019", _state(2))
    path, state = folder.load_last(read_checkpoint)
    assert (path.name, _value(state)) == ("model_0000019.pth", 2)
    assert (tmp_path / "new" / LAST_CHECKPOINT).read_text() == path.name


def test_a_checkpoint_with_nan_is_never_resumed_from(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save("model_nan_iter0000003", _state(3), resumable=False)
    assert folder.load_last(read_checkpoint) is None
    folder.save("model_0000001", _state(1))
    folder.save("model_nan_iter0000004", _state(3), resumable=False)
    (tmp_path / LAST_CHECKPOINT).unlink()
    assert _value(folder.load_last(read_checkpoint)[1]) == 1


def test_a_broken_last_checkpoint_is_named_and_the_one_before_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = CheckpointFolder(tmp_path)
    _break(folder.save("model_0000001", _state(1)))
    folder.save("model_0000002", _state(2))
    _break(folder.save("model_0000003", _state(3)))
    logging.getLogger("detkit").propagate = True
    path, state = folder.load_last(read_checkpoint)
    assert (path.name, _value(state)) == ("model_0000002.pth", 2)
    assert "model_0000003.pth is broken" in caplog.text and "the newest whole checkpoint" in caplog.text


def test_a_last_checkpoint_that_is_gone_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save("model_0000001", _state(1))
    folder.save("model_0000002", _state(2)).unlink()
    logging.getLogger("detkit").propagate = True
    assert _value(folder.load_last(read_checkpoint)[1]) == 1
    assert "model_0000002.pth, which is not there" in caplog.text


def test_only_broken_checkpoints_are_an_error(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    _break(folder.save("model_0000001", _state(1)))
    with pytest.raises(OSError, match=r"Every checkpoint in .* is broken: model_0000001\.pth"):
        folder.load_last(read_checkpoint)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save("model_final", _state(0))
    for iteration in (9, 19, 29, 39):
        folder.save(f"model_{iteration:07d}", _state(iteration))
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["model_0000029.pth", "model_0000039.pth", "model_final.pth"]


def test_the_one_just_written_is_kept_whatever_the_clock_says(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    earlier = folder.save("model_0000009", _state(1))
    os.utime(earlier, (2**32, 2**32))  # far in the future
    assert folder.save("model_0000019", _state(2)).exists()
    assert _value(folder.load_last(read_checkpoint)[1]) == 2


def test_only_what_a_write_has_left_is_removed(tmp_path: Path) -> None:
    leftover, others = tmp_path / ".model_final.pth.77.tmp", [tmp_path / "notes.tmp", tmp_path / ".notes.tmp", tmp_path / "model_final.pth"]
    for path in (leftover, *others):
        path.write_bytes(b"x")
    CheckpointFolder(tmp_path).remove_leftovers()
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file) -> None:
        file.write(b"new, and then")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"file could not be written: No space left.*The disk has .* free.*Make room"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")

    def to_full_disk(file) -> None:
        with open("/dev/full", "wb") as full:
            torch.save(_state(1), full)

    with pytest.raises(OSError, match="could not be written"):
        write_atomically(tmp_path / "file", to_full_disk)


def test_a_kill_inside_a_write_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """The child is killed when half of the second checkpoint is on the disk."""
    child = textwrap.dedent(
        """
        import io, os, signal, sys, torch
        from detkit.checkpoint import CheckpointFolder, writer
        folder = CheckpointFolder(sys.argv[1])
        folder.save("model_0000001", {"model": {"weight": torch.ones(4)}})
        def save_half(data, file):
            whole = io.BytesIO()
            save(data, whole)
            file.write(whole.getvalue()[: whole.tell() // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save, writer.torch.save = torch.save, save_half
        folder.save("model_0000002", {"model": {"weight": torch.zeros(4)}})
        """
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", child, str(tmp_path)], cwd=root, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(list(tmp_path.glob(".*.tmp"))) == 1
    folder = CheckpointFolder(tmp_path)
    path, state = folder.load_last(read_checkpoint)
    assert (path.name, _value(state)) == ("model_0000001.pth", 1)
    folder.remove_leftovers()
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("name", [LAST_CHECKPOINT, "run.json"])
def test_records_that_have_no_end_are_passed_over(tmp_path: Path, name: str) -> None:
    folder = CheckpointFolder(tmp_path)
    written = folder.save("model_0000001", _state(1.0))
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    found = folder.load_last(read_checkpoint)
    assert found is not None and found[0] == written
    assert folder.last == (None if name == LAST_CHECKPOINT else written)


def test_a_record_that_names_nothing_here_is_passed_over(tmp_path: Path) -> None:
    """Neither a file that is gone nor one of another folder."""
    folder = CheckpointFolder(tmp_path / "run")
    folder.save("model_0000001", _state(1.0))
    other = CheckpointFolder(tmp_path).save("model_0000009", _state(9.0))
    (folder.folder / LAST_CHECKPOINT).write_text("../model_0000009.pth")
    assert other.is_file() and _value(folder.load_last(read_checkpoint)[1]) == 1.0
    (folder.folder / LAST_CHECKPOINT).write_text("model_0000002.pth")
    assert folder.last is None and _value(folder.load_last(read_checkpoint)[1]) == 1.0


def test_checkpoints_of_an_earlier_run_are_passed_over(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save("model_0000001", _state(1.0) | {"run": "now"})
    folder.save("model_0000002", _state(2.0) | {"run": "before"})
    (tmp_path / "run.json").write_text('{"starts": [{"run": "before"}, {"run": "now"}]}')
    assert _value(folder.load_last(read_checkpoint)[1]) == 1.0
