"""One training step: forward and backward in parts, mixed precision, clipping, and one look at losses and gradients each."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detkit.assigners import NonFiniteCostError
from detkit.distributed import reduce_mean
from detkit.engine.fused import skips_by_itself
from detkit.engine.optimizer import GradientClipper
from detkit.engine.reports import Findings, NonFiniteGradientError, NonFiniteLossError, StepReport, image_names

__all__ = ["NonFiniteGradientError", "NonFiniteLossError", "StepReport", "TrainingStep"]

#: So many steps in a row may be skipped while the loss scale of float16 is looked for: each halves it, and it starts at 2**16.
_MAX_SKIPPED_STEPS = 30


class TrainingStep:
    """Computes the losses and gradients of a batch and takes a step of the optimizer.

    On a GPU, with an optimizer that skips steps by itself, nothing is waited for: a step with a loss or a gradient that is not finite is
    skipped on the device, and what it has found is read within the next step, when it has long arrived, before anything is changed.

    Args:
        model: takes a list of Detectron2's dicts and returns a dict of losses.
        optimizer: of its parameters.
        parts: the batch comes in this many parts, whose gradients are averaged before the step.
        amp_dtype: what autocast computes in; None: no mixed precision. Losses are scaled for float16 only.
        clip: what is done to the gradients before the step.
        late: whether the findings of a step are read within the next one; None: where that saves a wait.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        parts: int = 1,
        amp_dtype: torch.dtype | None = None,
        clip: GradientClipper | None = None,
        late: bool | None = None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self._parts, self._amp_dtype, self._clip = parts, amp_dtype, clip
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        names = {id(p): name.removeprefix("module.") for name, p in model.named_parameters()}
        self._names = [names[id(p)] for p in self._parameters]
        self._device = self._parameters[0].device
        self._late = self._device.type == "cuda" and skips_by_itself(optimizer) if late is None else late
        self._unread: Findings | None = None
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
    ) -> StepReport | None:
        """Takes one step.

        Args:
            batches: the next ``parts`` of them are used.
            iteration: for messages.
            stop: whether this worker was asked to stop; the report says whether any was.
            before_update: called when weights are about to be changed.

        Returns:
            the report of this step; where findings are read late, that of the step before, or None where it was read already.

        Raises:
            NonFiniteLossError: in every worker, before the weights are touched; read late, it is that of the step before, which was not
                taken.
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
                losses = self._forward(batch, iteration)
                total = total + torch.stack([loss.detach().float() for loss in losses.values()]) / self._parts
                if last:
                    mean = reduce_mean(torch.cat([total, torch.full((1,), float(stop), device=self._device)]))
                    values = torch.cat([mean, total])
                    found = Findings(iteration=iteration, losses=list(losses), values=values, images=images, data_time=data_time)
                self.grad_scaler.scale(torch.stack(list(losses.values())).sum() / self._parts).backward()
        report = self.settle() if self._late else found.report()
        self._last_batch = batch
        self._update_weights(found, mean, before_update)
        return report

    def settle(self) -> StepReport | None:
        """The report of the last step where nobody has read it yet; waits for it. In every worker.

        Raises:
            NonFiniteLossError, NonFiniteGradientError: the step was not taken.
        """
        found, self._unread = self._unread, None
        if found is None:
            return None
        report = found.report()
        self._require_finite_gradients(found)
        return report

    @property
    def is_sound(self) -> bool:
        """Whether the last step is known to have been taken, or skipped for a better loss scale. Changes nothing; in any worker."""
        found = self._unread
        return found is None or (found.has_finite_losses and (self.grad_scaler.is_enabled() or not found.bad_gradients()))

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

    def _forward(self, batch: list[dict[str, Any]], iteration: int) -> dict[str, Tensor]:
        try:
            with self._autocast():
                return self.model(batch)
        except NonFiniteCostError as error:
            if error.is_named:
                raise
            images = ", ".join(image_names([batch[number] for number in error.problems]))
            raise NonFiniteCostError(error.problems, f"at iteration {iteration} for the images {images}") from None

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=self._amp_dtype, enabled=self._amp_dtype is not None)

    def _communication(self, last: bool) -> contextlib.AbstractContextManager:
        """Gradients are exchanged between workers with the last part only."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _update_weights(self, found: Findings, losses: Tensor, before_update: Callable[[], None]) -> None:
        named = [(name, p.grad) for name, p in zip(self._names, self._parameters, strict=True) if p.grad is not None]
        gradients = [gradient for _, gradient in named]
        if self._late:  # a loss that is not finite makes a gradient of the same kind, by which the step is skipped
            gradients[0].add_((losses * 0).sum())
        self.grad_scaler.unscale_(self.optimizer)  # nothing where the losses are not scaled
        # the gradients are those of all workers, so that all of them decide alike
        norms = torch.stack(torch._foreach_norm(gradients, math.inf))
        found.add_gradients([name for name, _ in named], norms)
        if not self._late:
            self._require_finite_gradients(found)
        if self._clip is not None:  # not before: clipped by value, what is infinite looks sound
            self._clip(self._parameters)
        before_update()
        with self._skipping(~norms.isfinite().all()) if self._late else contextlib.nullcontext():
            self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        if self._late:
            self._unread = found

    def _require_finite_gradients(self, found: Findings) -> None:
        self._skipped = self._skipped + 1 if found.bad_gradients() else 0
        if self._skipped > (_MAX_SKIPPED_STEPS if self.grad_scaler.is_enabled() else 0):
            raise found.gradient_error(self._skipped - 1)

    @contextlib.contextmanager
    def _skipping(self, bad: Tensor) -> Iterator[None]:
        """Within it, a step of the optimizer does nothing where a value of the device is True; the scaler does that by itself."""
        if self.grad_scaler.is_enabled():
            yield
            return
        optimizer: Any = self.optimizer
        optimizer.grad_scale, optimizer.found_inf = None, bad.float()
        try:
            yield
        finally:
            del optimizer.grad_scale, optimizer.found_inf
