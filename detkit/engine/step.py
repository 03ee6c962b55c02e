"""One training step: forward and backward in parts, mixed precision, clipping, and one look at losses and gradients each."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from detkit.distributed import reduce_mean
from detkit.engine.optimizer import GradientClipper

__all__ = ["NonFiniteGradientError", "NonFiniteLossError", "StepReport", "TrainingStep"]

#: So many steps in a row may be skipped while the loss scale of float16 is looked for: each halves it, and it starts at 2**16.
_MAX_SKIPPED_STEPS = 30


class NonFiniteLossError(FloatingPointError):
    """A loss has become NaN or infinite. The message names the iteration, the loss terms and the images."""


class NonFiniteGradientError(FloatingPointError):
    """A gradient has become NaN or infinite. The message names the iteration, the parameters and the images."""


@dataclass(frozen=True)
class StepReport:
    """The result of one training step.

    Attributes:
        losses: mean over workers and parts, by name.
        data_time: seconds this worker waited for its images.
        stop: whether any worker was asked to stop.
    """

    losses: dict[str, float]
    data_time: float
    stop: bool


class TrainingStep:
    """Computes the losses and gradients of a batch and takes a step of the optimizer.

    Args:
        model: takes a list of Detectron2's dicts and returns a dict of losses.
        optimizer: of its parameters.
        parts: the batch comes in this many parts, whose gradients are averaged before the step.
        amp_dtype: what autocast computes in; None: no mixed precision. Losses are scaled for float16 only.
        clip: what is done to the gradients before the step.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        parts: int = 1,
        amp_dtype: torch.dtype | None = None,
        clip: GradientClipper | None = None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self._parts, self._amp_dtype, self._clip = parts, amp_dtype, clip
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._device = self._parameters[0].device
        self._skipped = 0
        self._last_batch: list[dict[str, Any]] = []
        self.grad_scaler = torch.amp.GradScaler(self._device.type, enabled=amp_dtype is torch.float16)

    def __call__(
        self,
        batches: Iterator[list[dict[str, Any]]],
        *,
        iteration: int,
        stop: bool = False,
        before_update: Callable[[], None] = lambda: None,
    ) -> StepReport:
        """Takes one step.

        Args:
            batches: the next ``parts`` of them are used.
            iteration: for messages.
            stop: whether this worker was asked to stop; the report says whether any was.
            before_update: called when weights are about to be changed.

        Raises:
            NonFiniteLossError: in every worker, before the weights are touched.
            NonFiniteGradientError: likewise. With scaled losses the step is skipped and the scale lowered, which is how a good one is
                found; skipped too often in a row, it is an error as well.
        """
        self.optimizer.zero_grad(set_to_none=True)
        images: list[dict[str, Any]] = []
        data_time = 0.0
        total = torch.zeros((), device=self._device)
        for part in range(self._parts):
            last = part == self._parts - 1
            start = time.perf_counter()
            batch = next(batches)
            data_time += time.perf_counter() - start
            images += batch
            with self._communication(last):
                losses = self._forward(batch)
                total = total + torch.stack([loss.detach().float() for loss in losses.values()]) / self._parts
                if last:
                    report = _HostCopy(reduce_mean(torch.cat([total, torch.full((1,), float(stop), device=self._device)])))
                self.grad_scaler.scale(torch.stack(list(losses.values())).sum() / self._parts).backward()
        *values, stop_share = report.read()
        named = dict(zip(losses, values, strict=True))
        if not all(map(_is_finite, values)):
            raise NonFiniteLossError(_describe(iteration, dict(zip(losses, total.tolist(), strict=True)), images))
        self._last_batch = batch
        self._update_weights(iteration, images, before_update)
        return StepReport(named, data_time, stop_share > 0)

    @torch.no_grad()
    def losses_now(self) -> dict[str, float]:
        """The losses of the weights as they are now, on the last batch that was computed; nothing of the model changes.

        In every worker: normalizers are reduced over them. Empty before the first step.
        """
        if not self._last_batch:
            return {}
        model = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
        before, training = {name: buffer.clone() for name, buffer in model.named_buffers()}, model.training
        try:
            with EventStorage(), self._autocast():  # what the model counts does not belong to the training
                losses = model.train()(self._last_batch)
        finally:
            model.train(training)
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])
        return dict(zip(losses, torch.stack([loss.float() for loss in losses.values()]).tolist(), strict=True))

    def _forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        with self._autocast():
            return self.model(batch)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=self._amp_dtype, enabled=self._amp_dtype is not None)

    def _communication(self, last: bool) -> contextlib.AbstractContextManager:
        """Gradients are exchanged between workers with the last part only."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _update_weights(self, iteration: int, images: list[dict[str, Any]], before_update: Callable[[], None]) -> None:
        self.grad_scaler.unscale_(self.optimizer)  # nothing where the losses are not scaled
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        # the one number that is waited for; the gradients are those of all workers, so that all of them decide alike
        finite = bool(get_total_norm(gradients, math.inf).isfinite())
        if self._clip is not None:  # not before: clipped by value, what is infinite looks sound
            self._clip(self._parameters)
        self._skipped = 0 if finite else self._skipped + 1
        if self._skipped > (_MAX_SKIPPED_STEPS if self.grad_scaler.is_enabled() else 0):
            raise NonFiniteGradientError(self._describe_gradients(iteration, images))
        before_update()
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _describe_gradients(self, iteration: int, images: list[dict[str, Any]]) -> str:
        named = [(name, p.grad) for name, p in self.model.named_parameters() if p.grad is not None]
        bad = [name.removeprefix("module.") for name, gradient in named if not gradient.isfinite().all()]
        skipped = f", as in the {self._skipped - 1} steps before, whatever the loss scale" if self.grad_scaler.is_enabled() else ""
        more = f" and {len(bad) - 1} more of {len(named)} parameters" if bad[1:] else ""
        seen = ", ".join(name for names in comm.all_gather(_names(images)) for name in names)
        return (
            f"The gradient of {bad[0]}{more} is not finite at iteration {iteration}{skipped}, on the images {seen}; the losses are. The "
            "step was not taken. Lower SOLVER.BASE_LR or lengthen SOLVER.WARMUP_ITERS, and look at these images."
        )


class _HostCopy:
    """A tensor on its way to the host. Reading waits for what was launched before the copy only, not for the backward pass after it."""

    def __init__(self, tensor: Tensor) -> None:
        self._host = tensor.to("cpu", non_blocking=True)
        self._done = torch.cuda.current_stream(tensor.device).record_event() if tensor.is_cuda else None

    def read(self) -> list[float]:
        if self._done is not None:
            self._done.synchronize()
        return self._host.tolist()


def _is_finite(value: float) -> bool:
    return value - value == 0


def _describe(iteration: int, losses: dict[str, float], images: list[dict[str, Any]]) -> str:
    """Names the images of the workers whose own losses are not finite. Every worker takes part."""
    bad = {name: value for name, value in losses.items() if not _is_finite(value)}
    findings = [(rank, *found) for rank, found in enumerate(comm.all_gather((bad, _names(images)))) if found[0]]
    lines = [
        f"worker {rank}: {', '.join(f'{name} = {value}' for name, value in bad.items())} on the images {', '.join(names)}"
        for rank, bad, names in findings
    ]
    return f"Loss is not finite at iteration {iteration}. " + "; ".join(lines)


def _names(images: list[dict[str, Any]]) -> list[str]:
    return [f"{image.get('image_id', '?')} ({image.get('file_name', 'no file name')})" for image in images]
