"""What a run leaves about itself."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from detkit.config import get_cfg
from detkit.engine.run_record import command_line, save_run_record, write_record


def test_a_resumed_run_adds_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    for seed, words in ((3, ["train_net.py", "SEED", "3"]), (4, ["train_net.py", "--resume", "OUTPUT_DIR", "a b"])):
        cfg.SEED = seed
        monkeypatch.setattr(sys, "argv", words)
        save_run_record(cfg)
    starts = json.loads((tmp_path / "out" / "run.json").read_text())["starts"]
    assert [start["seed"] for start in starts] == [3, 4]
    assert shlex.split(starts[1]["command"])[1:] == ["train_net.py", "--resume", "OUTPUT_DIR", "a b"]
    assert all(start["workers"] == 1 and start["versions"]["torch"] for start in starts)
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["SEED"] == 4


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"other": 1}'])
def test_a_broken_record_is_begun_anew(tmp_path: Path, broken: str) -> None:
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    (tmp_path / "run.json").write_text(broken)
    save_run_record(cfg)
    assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 1


def test_what_json_does_not_have_becomes_null(tmp_path: Path) -> None:
    write_record(
        tmp_path / "a.json", {"AP": float("nan"), "nested": [1.5, float("inf"), (2, -float("inf"))], 3: "x", "cfg": get_cfg().INPUT.CROP}
    )
    content = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert content["AP"] is None and content["nested"] == [1.5, None, [2, None]] and content["3"] == "x"
    assert content["cfg"]["TYPE"] == "relative_range"


def test_the_command_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train_net.py", "TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 1, 2]]"])
    assert shlex.split(command_line())[1:] == sys.argv
