"""What a run records is what ran, and a start that fails changes nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detectron2.engine import HookBase

from detkit.checkpoint import CheckpointFolder, read_checkpoint
from detkit.engine import Trainer, run
from detkit.engine.resuming import changes_since

Command = Callable[..., list[str]]


class _Kill(BaseException):
    """No error of the training, which would save what is whole."""


class _Crash(HookBase):
    """As a kill after the checkpoint of iteration 2."""

    def after_step(self) -> None:
        if self.trainer.iter == 3:
            raise _Kill("crash")


class _Rates(HookBase):
    """The learning rates and decays that every iteration uses."""

    def __init__(self) -> None:
        self.seen: dict[int, set[tuple[float, float]]] = {}

    def before_step(self) -> None:
        self.seen[self.trainer.iter] = {(group["lr"], group["weight_decay"]) for group in self.trainer.optimizer.param_groups}


def crash(cfg: Any) -> None:
    cfg.DATASETS.TEST = ()
    trainer = Trainer(cfg)
    trainer.register_hooks([_Crash()])
    trainer.resume_or_load(resume=False)
    with pytest.raises(_Kill, match="crash"):
        trainer.train()


def resume(cfg: Any) -> tuple[Trainer, dict[int, set[tuple[float, float]]]]:
    trainer, rates = Trainer(cfg), _Rates()
    trainer.register_hooks([rates])
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 3
    trainer.train()
    return trainer, rates.seen


def record(cfg: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    out = Path(cfg.OUTPUT_DIR)
    return yaml.safe_load((out / "config.yaml").read_text()), json.loads((out / "run.json").read_text())["starts"]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logging.getLogger("detkit").propagate = True
    caplog.set_level(logging.INFO)
    return caplog


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        (["SOLVER.BASE_LR", 0.5], {(0.5, 1e-4), (0.5, 0.0)}),
        (["SOLVER.WEIGHT_DECAY", 0.25], {(0.01, 0.25), (0.01, 0.0)}),
        (["SOLVER.WEIGHT_DECAY_NORM", 1e-4], {(0.01, 1e-4)}),  # one group less
        (["SOLVER.BIAS_LR_FACTOR", 2.0], {(0.01, 1e-4), (0.01, 0.0), (0.02, 1e-4), (0.02, 0.0)}),  # more groups
        (["SOLVER.STEPS", (3,)], {(0.001, 1e-4), (0.001, 0.0)}),
        (["SOLVER.GAMMA", 0.5, "SOLVER.STEPS", (3,)], {(0.005, 1e-4), (0.005, 0.0)}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_changed_key_of_the_solver_applies_on_resume(cfg: Any, said: pytest.LogCaptureFixture, options: list[Any], rates: set) -> None:
    crash(cfg)
    cfg.merge_from_list(options)
    _, seen = resume(cfg)
    assert len(seen[3]) == len(rates)
    torch.testing.assert_close(torch.tensor(sorted(seen[3])), torch.tensor(sorted(rates)))
    written, starts = record(cfg)
    for key, value in zip(options[0::2], options[1::2], strict=True):
        assert f"{key} changed from" in said.text and "applies from here on" in said.text
        assert written["SOLVER"][key.partition(".")[2]] == (list(value) if isinstance(value, tuple) else value)
        assert starts[-1]["changes"][key][1] == (list(value) if isinstance(value, tuple) else value)
    assert [start["iteration"] for start in starts] == [0, 3] and starts[0]["run"] == starts[1]["run"]


def test_momentum_stays_with_its_parameter_where_groups_change(cfg: Any) -> None:
    crash(cfg)
    saved = read_checkpoint(Path(cfg.OUTPUT_DIR) / "model_0000002.pth")
    cfg.SOLVER.BIAS_LR_FACTOR = 2.0
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    momentum = {name: saved["optimizer"]["state"][i]["momentum_buffer"] for i, name in enumerate(saved["parameters"])}
    found = {name: trainer.optimizer.state[parameter]["momentum_buffer"] for name, parameter in trainer.model.named_parameters()}
    assert len(trainer.optimizer.param_groups) > len(saved["optimizer"]["param_groups"])
    torch.testing.assert_close(found, momentum, rtol=0, atol=0)


def test_the_batch_and_the_length_apply(cfg: Any, said: pytest.LogCaptureFixture) -> None:
    crash(cfg)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER = 2, 8
    trainer, seen = resume(cfg)
    assert sorted(seen) == [3, 4, 5, 6, 7]
    assert "SOLVER.IMS_PER_BATCH changed from 4 to 2: applies" in said.text and "SOLVER.MAX_ITER changed from 6 to 8: applies" in said.text


def test_what_does_not_apply_is_said(cfg: Any, said: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    crash(cfg)
    cfg.SEED, cfg.MODEL.WEIGHTS = 5, str(tmp_path / "other.pth")
    trainer, _ = resume(cfg)
    assert "SEED changed from 1 to 5: does not apply" in said.text
    assert "MODEL.WEIGHTS changed from" in said.text and "does not apply" in said.text.split("MODEL.WEIGHTS changed from")[1]
    written, starts = record(cfg)
    assert written["SEED"] == starts[-1]["seed"] == 1 and starts[-1]["changes"] == {}


def test_an_unchanged_config_has_no_changes(cfg: Any, said: pytest.LogCaptureFixture) -> None:
    crash(cfg)
    resume(cfg)
    assert "changed from" not in said.text
    assert changes_since(None, cfg) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["SOLVER.OPTIMIZER", "AdamW"], "its optimizer is another one. Changed keys: SOLVER.OPTIMIZER was 'SGD' and is 'AdamW'"),
        (["MODEL.ATSS.NUM_CLASSES", 5], "Changed keys: MODEL.ATSS.NUM_CLASSES was 3 and is 5"),
    ],
)
def test_what_cannot_be_resumed_is_named(cfg: Any, options: list[Any], message: str) -> None:
    crash(cfg)
    cfg.merge_from_list(options)
    with pytest.raises(ValueError, match=message):
        Trainer(cfg).resume_or_load(resume=True)


def test_weights_alone_cannot_be_resumed(cfg: Any) -> None:
    folder = CheckpointFolder(cfg.OUTPUT_DIR)
    trainer = Trainer(cfg)
    folder.save("model_0000001", {"model": trainer.model.state_dict()})
    with pytest.raises(ValueError, match="holds no 'optimizer', so a run cannot be resumed from it"):
        trainer.resume_or_load(resume=True)


def files(out: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_a_start_that_fails_in_a_new_folder_leaves_its_log(command: Command, cfg: Any) -> None:
    with pytest.raises(SystemExit, match="nowhere.pth"):
        run(command("MODEL.WEIGHTS", "nowhere.pth")[2:])
    assert [path.name for path in Path(cfg.OUTPUT_DIR).iterdir()] == ["log.txt"]
    assert "Traceback" in (Path(cfg.OUTPUT_DIR) / "log.txt").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ("MODEL.WEIGHTS", "nowhere.pth"),
        ("--resume", "SOLVER.OPTIMIZER", "AdamW"),
        ("--resume", "MODEL.ATSS.NUM_CLASSES", "5"),
        ("SOLVER.BASE_LR", "-1"),
        ("SOLVER.IMS_PER_BATCH", "3", "SOLVER.ACCUMULATE", "2"),
        ("DATASETS.TRAIN", "('nowhere',)"),
        ("INPUT.MAPPER", "NoMapper"),
        ("MODEL.META_ARCHITECTURE", "YOLO"),
        ("--eval-only", "MODEL.WEIGHTS", "nowhere.pth"),
    ],
    ids=" ".join,
)
def test_a_start_that_fails_changes_nothing(command: Command, cfg: Any, words: tuple[str, ...]) -> None:
    run(command("SOLVER.MAX_ITER", "2")[2:])
    out = Path(cfg.OUTPUT_DIR)
    before = files(out)
    assert {Path(name).name for name in before} >= {"config.yaml", "run.json", "metrics.json", "results.json", "model_final.pth"}
    with pytest.raises(SystemExit, match="^error: "):
        run(command(*words)[2:])
    assert files(out) == before


def test_a_fresh_start_is_not_resumed_into_the_old_run(command: Command, cfg: Any, said: pytest.LogCaptureFixture) -> None:
    run(command("SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "DATASETS.TEST", "()")[2:])
    out = Path(cfg.OUTPUT_DIR)
    logging.getLogger("detkit").propagate = True
    old = read_checkpoint(out / "model_final.pth")
    trainer = Trainer(cfg.merge_from_list(["DATASETS.TEST", ()]) or cfg)
    trainer.register_hooks([_Crash()])
    trainer.checkpoints.save = lambda *args, **kwargs: out  # type: ignore[method-assign]  # killed before its first checkpoint
    trainer.resume_or_load(resume=False)
    with pytest.raises(_Kill, match="crash"):
        trainer.train()
    assert (out / "model_final.pth").exists()
    again = Trainer(cfg)
    again.resume_or_load(resume=True)
    assert again.start_iter == 0 and again.run_id != old["run"]
    assert "model_final.pth, model_0000001.pth belong to an earlier run" in said.text
    with pytest.raises(SystemExit, match="there is nothing to evaluate"):
        run(command("--eval-only", "--resume")[2:])


def test_a_broken_checkpoint_of_the_new_run_does_not_lead_to_the_old_one(cfg: Any) -> None:
    crash(cfg)
    crash(cfg)
    out = Path(cfg.OUTPUT_DIR)
    (out / "model_0000002.pth").rename(out / "model_0000001.pth")
    state = read_checkpoint(out / "model_0000001.pth")
    CheckpointFolder(out).save("model_0000005", state | {"run": "another"})
    path, found = CheckpointFolder(out).load_last(read_checkpoint) or (None, {})
    assert path == out / "model_0000001.pth" and found["run"] == state["run"]


def test_what_only_a_beginning_training_reads_is_kept_and_recorded(cfg: Any, said: pytest.LogCaptureFixture) -> None:
    crash(cfg)
    cfg.MODEL.WEIGHTS, cfg.MODEL.ATSS.HEAD.PRIOR_PROB = "other.pth", 0.2
    trainer, _ = resume(cfg)
    assert "MODEL.WEIGHTS changed from '' to 'other.pth': does not apply" in said.text
    assert "MODEL.ATSS.HEAD.PRIOR_PROB changed from 0.01 to 0.2: does not apply" in said.text
    written, starts = record(cfg)
    assert written["MODEL"]["WEIGHTS"] == "" and written["MODEL"]["ATSS"]["HEAD"]["PRIOR_PROB"] == 0.01
    assert starts[-1]["changes"] == {}
    assert yaml.safe_load(read_checkpoint(trainer.checkpoints.final)["config"])["MODEL"]["WEIGHTS"] == ""


def test_a_seed_that_nobody_has_set_is_no_warning(cfg: Any, said: pytest.LogCaptureFixture) -> None:
    cfg.SEED = -1
    crash(cfg)
    resume(cfg)
    assert not [record for record in said.records if record.levelno >= logging.WARNING and "SEED" in record.getMessage()]
