"""Fits learning rate and schedule to a batch of another size."""

from __future__ import annotations

import logging
from collections.abc import Collection

from detectron2.config import CfgNode

__all__ = ["scale_to_batch"]

logger = logging.getLogger(__name__)

_ITERATIONS = ("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.WARMUP_ITERS", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")


def scale_to_batch(cfg: CfgNode, keep: Collection[str] = ()) -> None:
    """Applies the linear scaling rule (Goyal et al., 2017, section 2.1) where the batch is not the one the config is meant for.

    With ``r = IMS_PER_BATCH / REFERENCE_BATCH_SIZE``, the learning rates are multiplied by ``r``, and everything that counts
    iterations is divided by it, so that as many images are seen. ``REFERENCE_BATCH_SIZE`` then says ``IMS_PER_BATCH``, so that
    applying this twice is applying it once.

    Args:
        cfg: changed in place.
        keep: keys to leave alone, for instance those given on the command line.
    """
    solver = cfg.SOLVER
    if solver.REFERENCE_BATCH_SIZE in (0, solver.IMS_PER_BATCH):
        return
    ratio = solver.IMS_PER_BATCH / solver.REFERENCE_BATCH_SIZE
    changes = []
    for key in ("SOLVER.BASE_LR", "SOLVER.BASE_LR_END", *_ITERATIONS):
        section, name = key.split(".")
        old = cfg[section][name]
        if key in keep or not old:
            continue
        new = old * ratio if key not in _ITERATIONS else _fewer(old, ratio)
        cfg[section][name] = new
        changes.append(f"{name} {old} -> {new:.6g}" if isinstance(new, float) else f"{name} {old} -> {new}")
    logger.info("Batch of %d instead of %d images: %s.", solver.IMS_PER_BATCH, solver.REFERENCE_BATCH_SIZE, ", ".join(changes))
    solver.REFERENCE_BATCH_SIZE = solver.IMS_PER_BATCH


def _fewer(iterations: int | tuple[int, ...], ratio: float) -> int | tuple[int, ...]:
    """Iterations for ``ratio`` times as many images each: at least 1; negative periods, which mean never, stay as they are."""
    if not isinstance(iterations, int):
        return tuple(max(1, round(i / ratio)) for i in iterations)
    return max(1, round(iterations / ratio)) if iterations > 0 else iterations
