"""What a training step finds out about itself: losses, gradients, requests to stop; and the errors where they are not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor

__all__ = ["Findings", "HostCopy", "NonFiniteGradientError", "NonFiniteLossError", "StepReport"]


class NonFiniteLossError(FloatingPointError):
    """A loss has become NaN or infinite. The message names the iteration, the loss terms and the images; so does ``iteration``."""

    iteration: int


class NonFiniteGradientError(FloatingPointError):
    """A gradient has become NaN or infinite. The message names the iteration, the parameters and the images; so does ``iteration``."""

    iteration: int


@dataclass(frozen=True)
class StepReport:
    """The result of one training step.

    Attributes:
        iteration: of the step.
        losses: mean over workers and parts, by name.
        data_time: seconds this worker waited for its images.
        stop: whether any worker was asked to stop.
    """

    iteration: int
    losses: dict[str, float]
    data_time: float
    stop: bool


class HostCopy:
    """A tensor on its way to the host. Reading waits for what was launched before the copy only, not for what comes after it."""

    def __init__(self, tensor: Tensor) -> None:
        self._host = tensor.to("cpu", non_blocking=True)
        self._done = torch.cuda.current_stream(tensor.device).record_event() if tensor.is_cuda else None

    def read(self) -> list[float]:
        if self._done is not None:
            self._done.synchronize()
        return self._host.tolist()


class Findings:
    """What one step has found, on its way to the host: losses first, gradients when there are any.

    Args:
        iteration: of the step.
        losses: names of the losses.
        values: of the losses and the request to stop, averaged over workers, and then of the worker's own losses.
        images: Detectron2's dicts of the images that the step saw.
        data_time: see :class:`StepReport`.
    """

    def __init__(
        self, *, iteration: int, losses: Sequence[str], values: Tensor, images: Sequence[dict[str, Any]], data_time: float
    ) -> None:
        self.iteration, self.data_time = iteration, data_time
        self._names, self._images = list(losses), image_names(images)
        self._values = HostCopy(values)
        self._parameters: list[str] = []
        self._norms: HostCopy | None = None

    def add_gradients(self, parameters: Sequence[str], norms: Tensor) -> None:
        """Names of the parameters that have a gradient, and their norms."""
        self._parameters, self._norms = list(parameters), HostCopy(norms)

    def report(self) -> StepReport:
        """What there is to know of the losses. In every worker.

        Raises:
            NonFiniteLossError: one is not finite; all workers raise together.
        """
        values = self._values.read()
        number = len(self._names)
        losses, stop, own = values[:number], values[number], values[number + 1 :]
        if not all(map(math.isfinite, losses)):
            raise _at(self.iteration, NonFiniteLossError(_describe(self.iteration, dict(zip(self._names, own, strict=True)), self._images)))
        return StepReport(self.iteration, dict(zip(self._names, losses, strict=True)), self.data_time, stop > 0)

    @property
    def has_finite_losses(self) -> bool:
        """Of all workers."""
        return all(map(math.isfinite, self._values.read()[: len(self._names)]))

    def bad_gradients(self) -> list[str]:
        """Names of the parameters whose gradient is not finite."""
        assert self._norms is not None
        return [name for name, norm in zip(self._parameters, self._norms.read(), strict=True) if not math.isfinite(norm)]

    def gradient_error(self, skipped: int) -> NonFiniteGradientError:
        """Says which gradients are not finite. In every worker. ``skipped``: steps before this one that were left out for the same."""
        bad = self.bad_gradients()
        before = f", as in the {skipped} steps before, whatever the loss scale" if skipped else ""
        more = f" and {len(bad) - 1} more of {len(self._parameters)} parameters" if bad[1:] else ""
        seen = ", ".join(name for names in comm.all_gather(self._images) for name in names)
        message = (
            f"The gradient of {bad[0]}{more} is not finite at iteration {self.iteration}{before}, on the images {seen}; the losses are. "
            "The step was not taken. Lower SOLVER.BASE_LR or lengthen SOLVER.WARMUP_ITERS, and look at these images."
        )
        return _at(self.iteration, NonFiniteGradientError(message))


def _at(iteration: int, error: Any) -> Any:
    error.iteration = iteration
    return error


def _describe(iteration: int, losses: dict[str, float], images: list[str]) -> str:
    """Names the images of the workers whose own losses are not finite. Every worker takes part."""
    bad = {name: value for name, value in losses.items() if not math.isfinite(value)}
    findings = [(rank, *found) for rank, found in enumerate(comm.all_gather((bad, images))) if found[0]]
    lines = [
        f"worker {rank}: {', '.join(f'{name} = {value}' for name, value in bad.items())} on the images {', '.join(names)}"
        for rank, bad, names in findings
    ]
    return f"Loss is not finite at iteration {iteration}. " + "; ".join(lines)


def image_names(images: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{image.get('image_id', '?')} ({image.get('file_name', 'no file name')})" for image in images]
