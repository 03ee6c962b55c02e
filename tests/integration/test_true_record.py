"""What a resumed or a new run makes of changed keys and used folders, and what a start that fails leaves behind."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from detkit.checkpoint import read_checkpoint
from detkit.config import ConfigError
from detkit.engine import Trainer, run
from tests.engine.test_resumed_state import train
from tests.toys.sliding import sliding_cfg


def saved_config(cfg: Any) -> dict[str, Any]:
    return yaml.safe_load((Path(cfg.OUTPUT_DIR) / "config.yaml").read_text())


def starts(cfg: Any) -> list[dict[str, Any]]:
    return json.loads((Path(cfg.OUTPUT_DIR) / "run.json").read_text())["starts"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("changed", "read"),
    [
        (("SOLVER.BASE_LR", 0.002), lambda trainer: trainer.optimizer.param_groups[0]["initial_lr"]),
        (("SOLVER.WEIGHT_DECAY", 0.003), lambda trainer: trainer.optimizer.param_groups[0]["weight_decay"]),
        (("SOLVER.MOMENTUM", 0.5), lambda trainer: trainer.optimizer.param_groups[0]["momentum"]),
        (("SOLVER.MAX_ITER", 5), lambda trainer: trainer.max_iter),
    ],
)
def test_a_changed_key_of_the_solver_applies_and_is_said(cfg: Any, changed: tuple[str, Any], read: Any, caplog: Any) -> None:
    cfg.DATASETS.TEST = ()
    train(cfg, crash=True)
    cfg.merge_from_list(changed)
    logging.getLogger("detkit").propagate = True
    with caplog.at_level(logging.INFO, logger="detkit"):
        trainer = train(cfg, resume=True)
    key, value = changed
    assert read(trainer) == value
    assert f"{key}: {value} instead of" in caplog.text and "from iteration 3 on" in caplog.text
    section, name = key.split(".")
    assert saved_config(cfg)[section][name] == value


def test_the_learning_rate_that_is_logged_is_the_one_that_is_used(cfg: Any) -> None:
    cfg.DATASETS.TEST, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = (), (), 0
    train(cfg, crash=True)
    cfg.SOLVER.BASE_LR = 0.125
    trainer = train(cfg, resume=True)
    assert trainer.storage.latest()["lr"][0] == 0.125
    assert read_checkpoint(trainer.checkpoints.final)["optimizer"]["param_groups"][0]["lr"] == 0.125


def test_what_only_a_beginning_training_reads_is_kept_and_said(cfg: Any, caplog: Any) -> None:
    cfg = sliding_cfg(cfg)
    train(cfg, crash=True)
    cfg.MODEL.WEIGHTS, cfg.SEED = "other.pth", 7
    logging.getLogger("detkit").propagate = True
    with caplog.at_level(logging.INFO, logger="detkit"):
        train(cfg, resume=True)
    assert "MODEL.WEIGHTS 'other.pth' is not applied: a resumed run keeps ''" in caplog.text
    assert "Continuing with the seed of the checkpoint, 1 (not with SEED 7)" in caplog.text
    assert saved_config(cfg)["MODEL"]["WEIGHTS"] == "" and saved_config(cfg)["SEED"] == 1
    assert [start["iteration"] for start in starts(cfg)] == [0, 3]


def test_an_unchanged_resumed_run_says_nothing_of_keys(cfg: Any, caplog: Any) -> None:
    cfg = sliding_cfg(cfg)
    train(cfg, crash=True)
    logging.getLogger("detkit").propagate = True
    with caplog.at_level(logging.INFO, logger="detkit"):
        train(cfg, resume=True)
    assert "instead of" not in caplog.text and "not applied" not in caplog.text


def test_another_optimizer_and_other_classes_are_refused_by_their_keys(cfg: Any) -> None:
    cfg.DATASETS.TEST = ()
    train(cfg, crash=True)
    other = cfg.clone()
    other.SOLVER.OPTIMIZER = "AdamW"
    with pytest.raises(ConfigError, match="SOLVER.OPTIMIZER is 'AdamW', but the checkpoint holds the state of 'SGD'"):
        Trainer(other).resume_or_load(resume=True)
    cfg.MODEL.ATSS.NUM_CLASSES = 5
    with pytest.raises(ValueError, match=r"Changed since it was written: MODEL.ATSS.NUM_CLASSES \(5 instead of 3\)"):
        Trainer(cfg).resume_or_load(resume=True)


def test_a_new_run_in_a_used_folder_is_never_resumed_into_the_old_one(cfg: Any) -> None:
    cfg = sliding_cfg(cfg)
    old = train(cfg)
    cfg.SOLVER.CHECKPOINT_PERIOD = 100
    train(cfg, crash=True)  # before its first checkpoint
    assert old.checkpoints.final.exists()
    resumed = Trainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 0
    assert len(starts(cfg)) == 1


def test_a_start_that_fails_changes_nothing_in_the_folder_of_a_finished_run(cfg: Any, tmp_path: Path, command: Any) -> None:
    run(command()[2:])
    before = contents(Path(cfg.OUTPUT_DIR))
    broken = tmp_path / "broken.pth"
    torch.save({"other.weight": torch.zeros(1)}, broken)
    for words in (
        ["MODEL.WEIGHTS", str(broken)],
        ["MODEL.WEIGHTS", "nowhere.pth"],
        ["DATASETS.TRAIN", "('nowhere',)"],
        ["SOLVER.OPTIMIZER", "Lion"],
        ["--resume", "MODEL.ATSS.NUM_CLASSES", "5"],
        ["--eval-only", "MODEL.WEIGHTS", str(broken)],
    ):
        with pytest.raises(SystemExit, match="^error: "):
            run(command(*words)[2:])
        assert contents(Path(cfg.OUTPUT_DIR)) == before, words


def test_a_start_that_fails_in_a_new_folder_leaves_its_log(cfg: Any, command: Any) -> None:
    with pytest.raises(SystemExit, match="nowhere.pth"):
        run(command("MODEL.WEIGHTS", "nowhere.pth")[2:])
    assert [path.name for path in Path(cfg.OUTPUT_DIR).iterdir()] == ["log.txt"]
    assert "Traceback" in (Path(cfg.OUTPUT_DIR) / "log.txt").read_text()
