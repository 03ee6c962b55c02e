"""The edits that tests have to notice, and the driver that makes them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from mutate import EDITS, ROOT, Edit, apply_edit, read_edits

ALL = read_edits(EDITS)


@pytest.mark.parametrize("file", sorted({edit.file for edit in ALL}))
def test_every_edit_names_one_place_of_its_file(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    for edit in (edit for edit in ALL if edit.file == file):
        ast.parse(apply_edit(text, edit))
        assert apply_edit(text, edit) != text, edit.name
        missing = [test for test in edit.tests if not (ROOT / test.split("::")[0]).exists()]
        assert not missing, f"{edit.name}: there is no {', '.join(missing)}"


def test_there_are_many_edits_in_all_rooms() -> None:
    assert len(ALL) >= 120 and len(set(ALL)) == len(ALL)
    rooms = {"/".join(Path(edit.file).parts[:2]) for edit in ALL}
    wanted = ("assigners", "checkpoint", "config", "data", "dense", "engine", "evaluation", "geometry", "losses", "tta")
    assert {f"detkit/{room}" for room in wanted} <= rooms
    assert {"sparsercnn", "lsnet", "dw", "fcos_atss"} <= {room.split("/")[0] for room in rooms}
    assert sum(bool(edit.may_live) for edit in ALL) <= 0.05 * len(ALL)


def test_old_text_has_to_occur_once() -> None:
    edit = Edit("a.py", "x", "y", ())
    assert apply_edit("1 x 2", edit) == "1 y 2"
    for text in ("", "x x"):
        with pytest.raises(ValueError, match=r"a\.py: the text 'x' occurs \d times"):
            apply_edit(text, edit)


@pytest.mark.parametrize("content", ["- {file: a.py, edits: []}", "- {file: a.py, tests: [t.py], edits: [[one]]}", "- just a word"])
def test_a_list_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "list.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"list\.yaml: an entry is a mapping"):
        read_edits(tmp_path)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Code of two functions, of which one is tested, and a test that would never end."""
    root = tmp_path / "toy"
    (root / "tests").mkdir(parents=True)
    (root / "arithmetic.py").write_text(
        "def double(x):\n    return x * 2\n\n\ndef half(x):\n    return x / 2\n\n\ndef go_on():\n    return False\n"
    )
    (root / "tests" / "test_toy.py").write_text(
        "import os\nfrom arithmetic import double, go_on, half\n\n\n"
        "def test_double():\n    assert double(3) == 6 and half(0) == 0\n    assert not os.path.exists(os.environ['DETKIT_DATA'])\n\n\n"
        "def test_end():\n    while go_on():\n        pass\n"
    )
    return root


def run(toy: Path, *words: str) -> tuple[subprocess.CompletedProcess, list[dict]]:
    results = toy.parent / "results.json"
    command = [
        sys.executable,
        str(ROOT / "tools" / "mutate.py"),
        "--no-preload",
        "--root",
        str(toy),
        "--edits",
        str(toy.parent / "list.yaml"),
    ]
    done = subprocess.run([*command, "--results", str(results), *words], capture_output=True, text=True, timeout=120)
    return done, json.loads(results.read_text()) if results.exists() else []


def test_the_driver_tells_caught_from_survived(toy: Path) -> None:
    edits = "['x * 2', 'x * 3'], ['x / 2', 'x / 3', 'nobody halves'], ['return False', 'return True']"
    (toy.parent / "list.yaml").write_text(f"- {{file: arithmetic.py, tests: [tests/test_toy.py], edits: [{edits}]}}\n")
    before = (toy / "arithmetic.py").read_text()
    done, results = run(toy, "--least", "60", "--timeout", "8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [result["caught"] for result in results] == [True, False, True]
    assert "2 of 3 edits caught (66.7 %)" in done.stdout and "may live: nobody halves" in done.stdout
    assert (toy / "arithmetic.py").read_text() == before
    done, results = run(toy, "--only", "x / 2")
    assert done.returncode == 1 and len(results) == 1


def test_tests_that_fail_without_an_edit_say_nothing(toy: Path) -> None:
    (toy.parent / "list.yaml").write_text("- {file: arithmetic.py, tests: [tests/test_toy.py], edits: [['x * 2', 'x * 3']]}\n")
    (toy / "arithmetic.py").write_text((toy / "arithmetic.py").read_text().replace("x / 2", "x + 1"))
    done, results = run(toy)
    assert done.returncode == 1 and "the tests do not pass as they are" in done.stderr and not results
