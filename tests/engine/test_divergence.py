"""Weights that no training can go on with never become the checkpoint to resume from, nor the result of a run."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import HookBase

from detkit.checkpoint import read_checkpoint
from detkit.engine import NonFiniteLossError, NonFiniteWeightsError, Trainer, TrainingStep, trainer
from detkit.engine.divergence import check_weights
from tests.toys.sliding import TARGET, Sliding, sliding_cfg


class _Poison(HookBase):
    """Puts a number into something after an iteration, as a step too far does."""

    def __init__(self, iteration: int, place: str, value: float) -> None:
        self._iteration, self._place, self._value = iteration, place, value

    def after_step(self) -> None:
        if self.trainer.iter != self._iteration:
            return
        state = self.trainer.optimizer.state
        places = {
            "weights": lambda: self.trainer.model.head.weight,
            "average": lambda: self.trainer.ema.model.head.weight,
            "momentum": lambda: state[self.trainer.model.head.weight]["momentum_buffer"],
        }
        places[self._place]().data.fill_(self._value)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("weights", math.nan, r"'model\.head\.weight' hold numbers that are NaN or infinite"),
        ("average", math.inf, r"'moving average\.head\.weight' hold"),
        ("momentum", math.nan, r"'optimizer\.0\.momentum_buffer' hold"),
        # finite, and of no use all the same
        ("weights", 1e30, r"its losses on the last images are not finite \(loss_shift = inf\)"),
    ],
)
@pytest.mark.parametrize("last", [False, True], ids=["midway", "at the end"])
def test_the_last_good_checkpoint_survives(cfg: Any, place: str, value: float, words: str, last: bool) -> None:
    cfg = sliding_cfg(cfg)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.CHECKPOINT_KEEP = 4 if last else 8, 1, 1
    cfg.SOLVER.EMA.ENABLED, cfg.SOLVER.MOMENTUM = True, 0.5
    trainer = Trainer(cfg)
    trainer._hooks.insert(0, poison := _Poison(3, place, value))
    poison.trainer = trainer
    with pytest.raises(NonFiniteWeightsError, match=rf"The training has diverged: after 4 iterations {words}"):
        trainer.train()
    folder = Path(cfg.OUTPUT_DIR)
    assert [path.name for path in folder.glob("*.pth")] == ["model_0000002.pth"]
    assert (folder / "last_checkpoint").read_text() == "model_0000002.pth"
    assert not (folder / "results.json").exists()
    resumed = Trainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 3 and math.isfinite(resumed.model.head.weight.item())


def test_an_evaluation_of_weights_without_sense_is_no_result(cfg: Any) -> None:
    cfg = sliding_cfg(cfg)
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 0, 2
    trainer = Trainer(cfg)
    trainer._hooks.insert(0, poison := _Poison(1, "weights", math.inf))
    poison.trainer = trainer
    with pytest.raises(NonFiniteWeightsError):
        trainer.train()
    assert trainer.results == {} and trainer.model.seen == []


def test_checkpoints_that_are_not_finite_are_passed_over(cfg: Any) -> None:
    """As one that another program has written."""
    cfg = sliding_cfg(cfg)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.MOMENTUM, cfg.DATASETS.TEST = 6, 0.5, ("toy",)
    trainer = Trainer(cfg)
    trainer.train()
    state = read_checkpoint(trainer.checkpoints.final)
    state["optimizer"]["state"][0]["momentum_buffer"].fill_(math.nan)
    torch.save(state, trainer.checkpoints.final)
    resumed = Trainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 3


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("iteration", -5, "its 'iteration' is -5"),
        ("iteration", "x", "its 'iteration' is 'x'"),
        ("seed", "x", "its 'seed' is 'x'"),
        ("config", 3, "its 'config' is 3"),
        ("optimizer", None, "holds no 'optimizer'.*MODEL.WEIGHTS"),
        ("iteration", None, "holds no 'iteration'.*MODEL.WEIGHTS"),
    ],
)
def test_what_no_run_writes_is_not_resumed(cfg: Any, key: str, value: Any, words: str) -> None:
    trainer = Trainer(sliding_cfg(cfg))
    trainer.iter = 2
    state = trainer.state_dict() | {key: value}
    with pytest.raises(ValueError, match=words):
        trainer.load_state_dict(state)


def test_losses_that_cannot_be_computed_are_a_divergence() -> None:
    def losses() -> dict[str, float]:
        raise FloatingPointError("costs are not finite")

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(NonFiniteWeightsError, match="after 4 iterations what the model gives .* cannot be used: costs are not finite"):
        check_weights({}, optimizer, losses=losses, done=4)


def test_a_trainer_evaluates_before_its_first_step(cfg: Any) -> None:
    """There is no batch yet on which losses could be looked at."""
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    assert {task for tasks in trainer.evaluate().values() for task in tasks} == {"bbox"}


def test_what_is_read_late_stops_before_its_state_is_saved(cfg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the loss of iteration 3 is NaN, and is known before the checkpoint after it, or in the next iteration."""
    forward = Sliding.forward
    monkeypatch.setattr(trainer, "TrainingStep", functools.partial(TrainingStep, late=True))
    monkeypatch.setattr(
        Sliding,
        "forward",
        lambda self, inputs: {name: loss * (math.nan if len(self.draws) == 4 else 1.0) for name, loss in forward(self, inputs).items()},
    )
    cfg = sliding_cfg(cfg)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.EMA.ENABLED, cfg.SOLVER.MOMENTUM = 8, True, 0.5
    for period, kept, done in ((2, "model_0000001.pth", 4), (3, "model_0000002.pth", 5)):
        cfg.OUTPUT_DIR, cfg.SOLVER.CHECKPOINT_PERIOD = str(Path(cfg.OUTPUT_DIR) / str(period)), period
        run = Trainer(cfg)
        with pytest.raises(NonFiniteLossError, match="not finite at iteration 3"):
            run.train()
        folder = Path(cfg.OUTPUT_DIR)
        assert sorted(path.name for path in folder.glob("*.pth")) == [kept, "model_nan_iter0000003.pth"]
        assert (folder / "last_checkpoint").read_text() == kept and len(run.model.draws) == done
        weight = read_checkpoint(folder / "model_nan_iter0000003.pth")["trained_model"]["head.weight"].item()
        assert weight == run.model.head.weight.item() and weight == pytest.approx(_weight_after(3))


def _weight_after(steps: int) -> float:
    weight = momentum = 0.0
    for _ in range(steps):
        momentum = 0.5 * momentum + weight - TARGET
        weight -= 0.1 * momentum
    return weight


def test_numbers_of_a_run_that_reads_late_are_those_of_one_that_does_not(cfg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = sliding_cfg(cfg)
    cfg.SOLVER.MAX_ITER = 25
    lines = []
    for late in (False, True):
        cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / str(late))
        monkeypatch.setattr(trainer, "TrainingStep", functools.partial(TrainingStep, late=late))
        Trainer(cfg).train()
        found = [json.loads(line) for line in (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()]
        lines.append([{key: line.get(key) for key in ("iteration", "total_loss", "loss_shift", "lr")} for line in found])
    assert lines[0] == lines[1] and [line["iteration"] for line in lines[0]][:2] == [19, 24]
