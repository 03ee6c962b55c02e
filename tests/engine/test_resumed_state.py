"""What a resumed run takes over beside the weights, and what it leaves or removes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import HookBase

from detkit.checkpoint import read_checkpoint
from detkit.engine import Trainer
from tests.toys.sliding import sliding_cfg


class _Crash(HookBase):
    """Ends like a kill, one iteration after the checkpoint of iteration 2."""

    def after_step(self) -> None:
        if self.trainer.iter == 3:
            raise KeyboardInterrupt("crash")


def train(cfg: Any, *, resume: bool = False, crash: bool = False) -> Trainer:
    trainer = Trainer(cfg)
    if crash:
        trainer.register_hooks([_Crash()])
    trainer.resume_or_load(resume=resume)
    if crash:
        with pytest.raises(KeyboardInterrupt, match="crash"):
            trainer.train()
    else:
        trainer.train()
    return trainer


def test_random_numbers_depend_on_seed_and_iteration_alone(cfg: Any, tmp_path: Path) -> None:
    """Whatever was drawn before: images may be prepared in this process or in others."""
    cfg = sliding_cfg(cfg)
    train(cfg, crash=True)
    resumed = train(cfg, resume=True).model.draws
    cfg.OUTPUT_DIR, cfg.INPUT.RANDOM_FLIP, cfg.INPUT.MIN_SIZE_TRAIN = str(tmp_path / "whole"), "none", (48, 64)
    whole = train(cfg).model.draws
    assert len(set(whole)) == 6 and resumed == whole[3:]
    cfg.SEED, cfg.OUTPUT_DIR = 2, str(tmp_path / "other")
    assert not set(train(cfg).model.draws) & set(whole)


def test_a_training_that_breaks_is_not_evaluated(cfg: Any) -> None:
    broken = train(sliding_cfg(cfg), crash=True)
    assert broken.results == {} and broken.model.seen == []
    assert not (Path(cfg.OUTPUT_DIR) / "inference").exists() and not (Path(cfg.OUTPUT_DIR) / "results.json").exists()


def test_the_loss_scale_goes_on_where_it_was(cfg: Any, tmp_path: Path) -> None:
    """Not at its start again: steps would be left out until it fits."""
    cfg = sliding_cfg(cfg)
    cfg.SOLVER.AMP.ENABLED = True
    before = train(cfg, crash=True)
    path = before.checkpoints.folder / "model_0000002.pth"
    state = dict(read_checkpoint(path))
    state["grad_scaler"] = {**state["grad_scaler"], "scale": 512.0, "_growth_tracker": 7}
    torch.save(state, path)
    resumed = Trainer(cfg)
    resumed.resume_or_load(resume=True)
    scaler = resumed.training_step.grad_scaler
    assert (float(scaler.get_scale()), scaler.state_dict()["_growth_tracker"]) == (512.0, 7)
    resumed.train()
    final = read_checkpoint(resumed.checkpoints.final)["grad_scaler"]
    assert (final["scale"], final["_growth_tracker"]) == (512.0, 10)


def test_the_seed_of_the_checkpoint_goes_on(cfg: Any) -> None:
    cfg = sliding_cfg(cfg)
    train(cfg, crash=True)
    cfg.SEED = 99
    assert train(cfg, resume=True).cfg.SEED == 1


def test_what_a_kill_has_left_is_removed_and_nothing_else(cfg: Any) -> None:
    out = Path(cfg.OUTPUT_DIR)
    out.mkdir()
    leftovers = [out / ".model_0000001.pth.123.tmp", out / ".model_final.pth.7.tmp"]
    others = [out / "notes.tmp", out / "mine.pth", out / ".hidden"]
    for path in leftovers + others:
        path.write_text("x")
    train(sliding_cfg(cfg))
    assert not any(path.exists() for path in leftovers) and all(path.exists() for path in others)


def test_a_resumed_average_goes_on_with_its_count(cfg: Any, tmp_path: Path) -> None:
    cfg = sliding_cfg(cfg)
    cfg.SOLVER.EMA.ENABLED = True
    train(cfg, crash=True)
    resumed = train(cfg, resume=True)
    cfg.OUTPUT_DIR = str(tmp_path / "whole")
    whole = train(cfg)
    assert resumed.ema.model.shift == whole.ema.model.shift > 0
    assert resumed.ema.state_dict() == whole.ema.state_dict() == {"updates": 6}
