"""What a trainer saves, and how it goes on from it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from torch import nn

from detkit.checkpoint import CheckpointFolder, load_weights, read_checkpoint
from detkit.engine.divergence import check_weights
from detkit.engine.ema import WeightAverage
from detkit.engine.exits import exit_code_of
from detkit.engine.peers import claim_end, leave_if_others_end, say
from detkit.engine.resuming import Change, changes_since, check_run_state, optimizer_state_for, parameter_names, why_not_resumed
from detkit.engine.step import TrainingStep
from detkit.engine.whole_state import WholeState

__all__ = ["ResumableTrainer"]

logger = logging.getLogger(__name__)


class ResumableTrainer(TrainerBase):
    """The checkpoints of a :class:`detkit.engine.trainer.Trainer`, which makes and trains what they are about."""

    cfg: CfgNode
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    ema: WeightAverage | None
    training_step: TrainingStep
    checkpoints: CheckpointFolder
    whole_state: WholeState
    run_id: str | None
    changes: list[Change]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes of the training data."""
        raise NotImplementedError

    def settle(self) -> None:
        """See :meth:`detkit.engine.trainer.Trainer.settle`."""
        raise NotImplementedError

    def resume_or_load(self, resume: bool = True) -> None:
        """Continues from the last whole checkpoint in ``OUTPUT_DIR``, if asked and there is one; else loads ``MODEL.WEIGHTS``.

        Keys that have changed since the checkpoint apply from here on (learning rate, decay, schedule, batch, data, losses), but for the
        seed and the weights to start from; the log says so key by key.

        Raises:
            OSError: there are checkpoints to resume from, and all are broken.
        """
        found = self.checkpoints.load_last(read_checkpoint) if resume else None
        if found is None:
            if resume:
                logger.info("There is no checkpoint in %s to resume from: starting from MODEL.WEIGHTS.", self.cfg.OUTPUT_DIR)
            if self.cfg.MODEL.WEIGHTS:
                load_weights(self.model, self.cfg.MODEL.WEIGHTS)
            return
        path, state = found
        self.load_state_dict(state)
        self.start_iter = self.iter + 1
        logger.info("Resuming after iteration %d from %s.", self.iter, path)
        if any(change.applies for change in self.changes):
            logger.warning(
                "The run in %s goes on with another config than it had; the keys are listed below. To start a new one, leave out --resume "
                "or name another OUTPUT_DIR.",
                self.cfg.OUTPUT_DIR,
            )
        for change in self.changes:
            # a seed that nobody has set is another one at every start
            logger.log(logging.INFO if change.applies or change.key == "SEED" else logging.WARNING, "%s", change)

    def save_checkpoint(self) -> None:
        """Saves all that :meth:`resume_or_load` needs to continue after the current iteration. In every worker.

        Raises:
            NonFiniteWeightsError: this state is of no use; the checkpoint before it stays the last one.
        """
        self._require_sound_weights()
        last = self.iter + 1 >= self.max_iter
        self._save("model_final" if last else f"model_{self.iter:07d}")

    def _require_sound_weights(self) -> None:
        self.settle()
        check_weights(
            {"model": self.model, **({"moving average": self.ema.model} if self.ema is not None else {})},
            self.optimizer,
            losses=self.training_step.losses_now,
            done=self.iter + 1,
        )

    def _save(self, name: str, *, resumable: bool = True) -> None:
        if comm.is_main_process():
            path = self.checkpoints.save(name, self.state_dict(), resumable=resumable)
            logger.debug("Saved %s.", path)

    def rescue(self) -> str:
        """Saves the state after the last whole iteration, where an iteration is not; says so. In any thread and any worker."""
        last = self.checkpoints.last
        kept = f"Continue from {last.name} with --resume." if last else "There is no checkpoint yet."
        with self.whole_state.held() as iteration:
            if iteration is None:
                return f"The weights were being changed. {kept}"
            if iteration < self.start_iter:
                return f"No iteration was done. {kept}"
            if iteration + 1 >= self.max_iter:
                return "All iterations are done and saved: evaluate with --eval-only --resume."
            if not self.training_step.is_sound:
                return f"What iteration {iteration} gave is not finite. {kept}"
            path = self.checkpoints.folder / f"model_{iteration:07d}.pth"
            if last != path:
                self.checkpoints.save(path.stem, self.state_dict() | {"iteration": iteration})
        return f"Saved the state after iteration {iteration}. Continue with --resume."

    def _save_what_is_whole(self, error: Exception) -> None:
        """After an error that lies not in the weights, nor in the disk."""
        leave_if_others_end(error)
        if isinstance(error, (FloatingPointError, OSError)) or not claim_end(exit_code_of(error)):
            return
        try:
            say(self.rescue())  # in whichever worker: the console of the others is silent
        except Exception:  # the error that is being handled is the one to show
            logger.debug("Not saved:", exc_info=True)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to continue: weights, optimizer, schedule, loss scale, average, iteration, seed."""
        state = super().state_dict() | {
            "seed": self.cfg.SEED,
            "run": self.run_id,
            "config": self.cfg.dump(),
            "classes": self.class_names,
            "parameters": self._parameter_names(),
            "optimizer": self.optimizer.state_dict(),
            "grad_scaler": self.training_step.grad_scaler.state_dict(),
        }
        if self.ema is None:
            return {"model": self.model.state_dict(), **state}
        return {
            "model": self.ema.model.state_dict(),
            "trained_model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            **state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues exactly where the state was taken, with the learning rates, decays and schedule of the config.

        Raises:
            ValueError: the state is of a run with another model or optimizer, or holds weights alone.
        """
        check_run_state(state)
        if state["iteration"] >= self.max_iter:
            raise ValueError(
                f"SOLVER.MAX_ITER is {self.max_iter}, but the last checkpoint is that after iteration {state['iteration']}. Raise "
                "SOLVER.MAX_ITER, or start without --resume."
            )
        changes = changes_since(state.get("config"), self.cfg)
        names = self._parameter_names()
        try:
            if any(change.key == "SOLVER.OPTIMIZER" for change in changes):
                raise ValueError("its optimizer is another one")
            optimizer = optimizer_state_for(self.optimizer.state_dict(), state["optimizer"], names, state.get("parameters", names))
            self.model.load_state_dict(state.get("trained_model", state["model"]))
            self.optimizer.load_state_dict(optimizer)
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            raise ValueError(why_not_resumed(error, changes)) from error
        base_lrs = list(self.scheduler.base_lrs)
        super().load_state_dict(dict(state))
        self.scheduler.base_lrs = base_lrs  # those of the config, not of the checkpoint
        for group, lr in zip(self.optimizer.param_groups, self.scheduler.get_lr(), strict=True):
            group["lr"] = lr
        if state["grad_scaler"]:  # empty where the losses were not scaled
            self.training_step.grad_scaler.load_state_dict(state["grad_scaler"])
        if self.ema is not None:
            self.ema.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state.get("ema", {"updates": 0}))
        self.run_id, self.changes = state.get("run"), changes
        self._take_over({"SEED": state["seed"]} | {change.key: change.old for change in changes if not change.applies})

    def _parameter_names(self) -> list[str]:
        return parameter_names(self.model.named_parameters(), self.optimizer.param_groups)

    def _take_over(self, values: Mapping[str, Any]) -> None:
        """The config then says what really runs."""
        self.cfg.defrost()
        self.cfg.merge_from_list([word for pair in values.items() for word in pair])
        self.cfg.freeze()
