"""One training step: forward and backward in parts, mixed precision, clipping, and a check that costs one transfer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detkit.distributed import reduce_mean
from detkit.engine.optimizer import GradientClipper

__all__ = ["NonFiniteLossError", "StepReport", "TrainingStep"]


class NonFiniteLossError(FloatingPointError):
    """A loss has become NaN or infinite. The message names the iteration, the loss terms and the images."""


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
        before_update()
        self._update_weights()
        return StepReport(named, data_time, stop_share > 0)

    def _forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        with torch.autocast(self._device.type, dtype=self._amp_dtype, enabled=self._amp_dtype is not None):
            return self.model(batch)

    def _communication(self, last: bool) -> contextlib.AbstractContextManager:
        """Gradients are exchanged between workers with the last part only."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _update_weights(self) -> None:
        if self._clip is not None:
            self.grad_scaler.unscale_(self.optimizer)
            self._clip(self._parameters)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()


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
    names = [f"{image.get('image_id', '?')} ({image.get('file_name', 'no file name')})" for image in images]
    findings = [(rank, *found) for rank, found in enumerate(comm.all_gather((bad, names))) if found[0]]
    lines = [
        f"worker {rank}: {', '.join(f'{name} = {value}' for name, value in bad.items())} on the images {', '.join(names)}"
        for rank, bad, names in findings
    ]
    return f"Loss is not finite at iteration {iteration}. " + "; ".join(lines)
