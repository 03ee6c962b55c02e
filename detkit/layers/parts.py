"""Detectors in parts: functions of tensors, between which the host decides, and which ``torch.compile`` may take one by one."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.fx.experimental._config as symbolic_config

__all__ = ["CompiledParts", "InParts"]

logger = logging.getLogger(__name__)


class CompiledParts:
    """Compiles the parts of a detector when they first run, each as one graph for all sizes. Belongs to no detector: a copy of one (as a
    moving average is) has its own weights in the same programs.

    Whatever cannot be compiled runs as it is from then on, in all models of its class, which the log says once: a training does not end by
    it. An error of the compiler on the graph of the gradients comes up with them and does end it.

    Args:
        training: compile what computes gradients.
        inference: compile what computes none.
        backend: of ``torch.compile``.
        dynamic: sizes are variables of the graph; False: one graph for every size.
        graphs: most of them per part, before it runs as it is.
    """

    def __init__(
        self, *, training: bool = True, inference: bool = True, backend: str = "inductor", dynamic: bool = True, graphs: int = 64
    ) -> None:
        # tables that are kept for the sizes seen last become part of the program
        warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
        self.training = training
        self.inference = inference
        self.backend = backend
        self.dynamic = dynamic
        self.graphs = graphs
        #: what could not be compiled, with the reason
        self.failed: dict[str, str] = {}
        self._compiled: dict[Callable[..., Any], Callable[..., Any]] = {}

    def __call__(self, part: Callable[..., Any], *args: Any) -> Any:
        """What ``part(*args)`` gives."""
        name = f"{type(args[0]).__name__}.{part.__name__}"  # of the model's own class: many inherit their parts
        wanted = self.training if torch.is_grad_enabled() else self.inference
        if not wanted or name in self.failed or torch.compiler.is_compiling():
            return part(*args)
        if part not in self._compiled:
            self._compiled[part] = torch.compile(part, fullgraph=True, dynamic=self.dynamic, backend=self.backend)
        try:
            with (
                torch._dynamo.config.patch(recompile_limit=self.graphs),
                _sizes_that_happen_to_be_equal_may_differ(),
                torch.set_grad_enabled(torch.is_grad_enabled()),  # an error in a program leaves it as it is at that place
            ):
                return self._compiled[part](*args)
        except _compiler_errors() as error:  # nothing of the part has run yet
            self.failed[name] = str(error)
            logger.warning("%s cannot be compiled and runs as it is: %s", name, str(error).strip().partition("\n")[0])
            logger.debug("Not compiled:", exc_info=True)
        return part(*args)

    def __deepcopy__(self, memo: Any) -> CompiledParts:
        """Itself: copies of a detector run the same programs."""
        return self


def _sizes_that_happen_to_be_equal_may_differ() -> Any:
    """As many objects as classes, for instance, in the batch that is compiled first."""
    return symbolic_config.patch(use_duck_shape=False)  # type: ignore[attr-defined]


def _compiler_errors() -> tuple[type[Exception], ...]:
    """What compiling may raise; looked up where it is needed, since importing the compiler takes seconds."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    return TorchDynamoException, FailOnRecompileLimitHit


class InParts:
    """Mixed into detectors that run their parts, methods of tensors, by :meth:`run_part`."""

    #: None: they run as they are
    compiled: CompiledParts | None = None

    @property
    def min_objects(self) -> int:
        """Objects of an image that there is room for at least: compilers take the sizes 0 and 1 for constants."""
        return 0 if self.compiled is None else 2

    def run_part(self, name: str, *args: Any) -> Any:
        """What the method ``name`` gives, compiled where ``compiled`` says so."""
        if self.compiled is None:
            return getattr(self, name)(*args)
        return self.compiled(getattr(type(self), name), self, *args)
