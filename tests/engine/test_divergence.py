"""Weights that no training can go on with never become the checkpoint to resume from, nor the result of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import HookBase

from detkit.checkpoint import read_checkpoint
from detkit.engine import NonFiniteWeightsError, Trainer
from detkit.engine.divergence import check_weights
from tests.toys.sliding import sliding_cfg


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
