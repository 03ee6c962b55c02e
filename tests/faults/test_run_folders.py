"""Run folders of which ``tools/report.py`` makes a page: half written, broken, or made by somebody who means harm."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.report.test_tool import PATH, run_tool
from tests.toys.own_data import ROOT, OwnData

#: what may lie where a json file should
SPOILT: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "bytes": lambda path: path.write_bytes(bytes(range(256))),
    "a page": lambda path: path.write_text("<html>404</html>"),
    "null": lambda path: path.write_text("null\nnull"),
    "a list of lists": lambda path: path.write_text("[[[1]]]\n[]"),
    "an object of nothing": lambda path: path.write_text("{}\n{}"),
    "other types": lambda path: path.write_text('{"starts": [[]], "results": [], "iteration": "x", "image_id": {}}\n{}'),
    "objects in objects": lambda path: path.write_text('{"starts": [{"versions": [1]}], "results": {"custom_val": 3}, "iteration": {}}'),
    "nested deeply": lambda path: path.write_text("[" * 100000 + "\n\n"),
    "a number of 5000 digits": lambda path: path.write_text('{"iteration": ' + "9" * 5000 + "}\n{}"),
    "a folder": lambda path: [path.unlink(), path.mkdir()],
    "a pipe": lambda path: [path.unlink(), os.mkfifo(path)],
    "a device": lambda path: [path.unlink(), path.symlink_to("/dev/zero")],
}
FILES = ("metrics.json", "run.json", "results.json", "inference/custom_val/coco_instances_results.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two iterations, made once."""
    root = tmp_path_factory.mktemp("finished")
    own = OwnData(root, _Silent())
    own.content["categories"][0]["name"] = "<script>alert(1)</script>"
    own.run("DATASETS.NAME", "custom")
    return own.root / "out1"


class _Silent:
    """Stands for the fixture ``capsys``, which a fixture of a module cannot have."""

    def readouterr(self) -> _Silent:
        return self

    out = err = ""


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


#: what has no end, in the place of a file that is no json
ENDLESS = [("config.yaml", "a pipe"), ("config.yaml", "a device"), ("last_checkpoint", "a pipe"), ("last_checkpoint", "a device")]


@pytest.mark.parametrize(("name", "how"), [*itertools.product(FILES, SPOILT), *ENDLESS])
def test_a_page_or_one_line(folder: Path, name: str, how: str, capsys: pytest.CaptureFixture) -> None:
    SPOILT[how](folder / name)
    message = ended(lambda: run_tool("--output-dir", str(folder)))
    if message is None:
        assert (folder / "report.html").stat().st_size > 10_000
    else:
        assert message.startswith("error: ") and "\n" not in message and len(message) < 1000
        assert Path(name).name in message
        assert not (folder / "report.html").exists()
    assert "Traceback" not in "".join(capsys.readouterr())


def ended(command: Callable[[], None]) -> str | None:
    """The message of a command that stops; None where it goes through."""
    try:
        command()
    except SystemExit as stopped:
        return str(stopped.code)
    return None


def test_names_are_text_on_the_page(folder: Path) -> None:
    """Of classes, keys, versions and files: nothing of a run folder becomes markup."""
    record = json.loads((folder / "run.json").read_text())
    record["starts"][0]["versions"]["<img src=x onerror=alert(2)>"] = "<b>1</b>"
    record["starts"][0]["command"] = "</code><script>alert(3)</script>"
    (folder / "run.json").write_text(json.dumps(record))
    run_tool("--output-dir", str(folder))
    page = (folder / "report.html").read_text()
    assert "<script>alert" not in page and "<img src=x" not in page and "<b>1</b>" not in page
    assert "&lt;script&gt;alert(1)" in page and "&lt;script&gt;alert(3)" in page


@pytest.mark.slow
def test_the_command_itself_says_one_line(folder: Path) -> None:
    (folder / "metrics.json").write_text("{\n{")
    done = subprocess.run([sys.executable, PATH, "--output-dir", folder], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1
