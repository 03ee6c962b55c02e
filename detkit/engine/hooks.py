"""What happens between the steps of a training. Detectron2's own hooks do the rest."""

from __future__ import annotations

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

__all__ = ["Evaluation", "PeriodicCheckpoint", "Settling", "StopOnRequest"]


class PeriodicCheckpoint(HookBase):
    """Saves a checkpoint every ``period`` iterations and after the last one. 0 or less: after the last one only."""

    def __init__(self, period: int) -> None:
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done >= self.trainer.max_iter or (self._period > 0 and done % self._period == 0):
            self.trainer.save_checkpoint()
        self.trainer.whole_state.completed(self.trainer.iter)


class StopOnRequest(HookBase):
    """Ends the training with a checkpoint after the iteration in which a worker was asked to stop."""

    def after_step(self) -> None:
        if self.trainer.stop_agreed:
            self.trainer.stop()


class Settling(HookBase):
    """Reads what a step has found where that is read late, before numbers are written. In every worker, for errors are named together."""

    def __init__(self, period: int) -> None:
        self._period = period

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self._period == 0:
            self.trainer.settle()


class Evaluation(HookBase):
    """Evaluates every ``period`` iterations and after the last one. 0 or less: after the last one only."""

    def __init__(self, period: int) -> None:
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done < self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # not after an error
            self._evaluate()

    def _evaluate(self) -> None:
        results = self.trainer.evaluate()
        if len(results) == 1:
            (results,) = results.values()
        metrics = {name: value for name, value in flatten_results_dict(results).items() if isinstance(value, (int, float))}
        self.trainer.storage.put_scalars(**metrics, smoothing_hint=False)
        comm.synchronize()
