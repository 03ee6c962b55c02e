from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detkit.config import SafeCfgNode

PATH = Path(__file__).parents[2] / "tools" / "report.py"


def run_tool(*args: str) -> None:
    spec = importlib.util.spec_from_file_location("report_tool", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(args)


def test_tool_prints_the_path_of_the_page(cfg: SafeCfgNode, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_tool("--output-dir", str(run_folder))
    # a console that an earlier run of this process has set up may have shown a warning before
    assert capsys.readouterr().out.splitlines()[-1] == str(run_folder / "report.html")


def test_tool_takes_a_config_and_overrides(cfg: SafeCfgNode, run_folder: Path, tmp_path: Path) -> None:
    (run_folder / "config.yaml").rename(tmp_path / "other.yaml")
    run_tool("--config-file", str(tmp_path / "other.yaml"), "--output-dir", str(run_folder), "SOLVER.MAX_ITER", "77")
    assert "100 / 77" in (run_folder / "report.html").read_text()


def test_bad_input_is_one_line(run_folder: Path) -> None:
    (run_folder / "config.yaml").unlink()
    with pytest.raises(SystemExit, match=r"error: .*config\.yaml"):
        run_tool("--output-dir", str(run_folder))


def _directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("run.json", lambda path: path.write_text('{"starts": [{"versions": "x", "hardware": 5}]}')),
        ("run.json", lambda path: path.write_text("{")),
        ("run.json", _directory),
        ("metrics.json", _directory),
        ("config.yaml", _directory),
        ("config.yaml", lambda path: path.write_text("MODEL: {NO_SUCH: 1}\nSOLVER: {NO_SUCH: 1}")),
        ("config.yaml", lambda path: path.write_text("MODEL: " + "[" * 20000)),
        ("report.html", _directory),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_failure_is_one_line(run_folder: Path, name: str, spoil: Callable[[Path], Any]) -> None:
    spoil(run_folder / name)
    with pytest.raises(SystemExit) as stopped:
        run_tool("--output-dir", str(run_folder))
    assert str(stopped.value).startswith("error: ") and "\n" not in str(stopped.value)
    with pytest.raises(Exception) as raised:  # noqa: PT011  whatever it is
        run_tool("--traceback", "--output-dir", str(run_folder))
    assert not isinstance(raised.value, SystemExit)


def test_broken_checkpoints_leave_the_curves(cfg: SafeCfgNode, run_folder: Path) -> None:
    (run_folder / "model_final.pth").write_bytes(b"PK\x03\x04")
    run_tool("--output-dir", str(run_folder))
    assert "Average precision" in (run_folder / "report.html").read_text()


def test_data_that_are_elsewhere_leave_the_curves(cfg: SafeCfgNode, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_tool("--output-dir", str(run_folder), "DATASETS.TRAIN", "('elsewhere',)", "DATASETS.TEST", "('elsewhere',)")
    assert "'elsewhere', which is not registered" in capsys.readouterr().err
    text = (run_folder / "report.html").read_text()
    assert "Average precision" in text
    assert "No detections on elsewhere yet" in text
