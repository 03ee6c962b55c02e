"""Whether the state of a training is worth keeping."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from detectron2.utils import comm
from torch import nn

from detkit.checkpoint import non_finite

__all__ = ["NonFiniteWeightsError", "check_weights"]


class NonFiniteWeightsError(FloatingPointError):
    """The weights have become NaN or infinite, or so large that their losses are. The message names them and the remedy."""


def check_weights(
    models: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, *, losses: Callable[[], Mapping[str, float]], done: int
) -> None:
    """Refuses weights that no training and no evaluation can go on with. In every worker, all of which raise where one has to.

    Args:
        models: by what they are called in the message.
        optimizer: its states (momentum, ...) are looked at, too.
        losses: computes the losses of the weights on images at hand, see :meth:`detkit.engine.step.TrainingStep.losses_now`.
        done: iterations that were trained.

    Raises:
        NonFiniteWeightsError: there is a NaN or an infinity.
    """
    problem = _in_state({**{name: model.state_dict() for name, model in models.items()}, "optimizer": optimizer.state_dict()["state"]})
    problems = comm.all_gather(problem)
    if not any(problems):  # all compute them together: normalizers are reduced over the workers
        problems = comm.all_gather(_in_losses(losses))
    found = next((each for each in problems if each), None)
    if found:
        raise NonFiniteWeightsError(
            f"The training has diverged: after {done} iterations {found.rstrip('.')}. This state is not saved; what was saved before "
            "stays. Lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_ITERS, or enable SOLVER.CLIP_GRADIENTS."
        )


def _in_state(state: Mapping[str, object]) -> str | None:
    bad = list(non_finite(state))
    if not bad:
        return None
    return f"'{bad[0]}'{f' and {len(bad) - 1} more tensors' if bad[1:] else ''} hold numbers that are NaN or infinite"


def _in_losses(losses: Callable[[], Mapping[str, float]]) -> str | None:
    try:
        bad = {name: value for name, value in losses().items() if not math.isfinite(value)}
    except FloatingPointError as error:  # what the losses are computed from
        return f"what the model gives on the last images cannot be used: {error}"
    return f"its losses on the last images are not finite ({', '.join(f'{key} = {value}' for key, value in bad.items())})" if bad else None
