"""Training that goes on with other workers: what ``torchrun`` restarts resumes, and the batch stays what it was."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from detkit.checkpoint import RUN_FILE
from detkit.config import Section
from detkit.data import require_regular_file
from detkit.distributed import get_world_size

__all__ = ["fit_batch_to_workers", "is_restart", "job_id"]

logger = logging.getLogger(__name__)


def job_id() -> str | None:
    """The ``--rdzv-id`` of ``torchrun``; None without one."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if name == "none" else name


def is_restart(output_dir: str | Path) -> bool:
    """Whether ``torchrun`` has started these workers again: after one of them has failed, or since machines have come or gone.

    They are given the command of the first start, so that they would begin anew without ``--resume``.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0:
        return True
    starts = _starts(output_dir)
    return bool(starts) and job_id() is not None and starts[-1].get("job") == job_id()


def fit_batch_to_workers(cfg: CfgNode) -> None:
    """Keeps the batch of a run that ``torchrun`` goes on with fewer workers than it began with.

    Every worker computes its greater share in more parts (``SOLVER.ACCUMULATE``), none of them larger than at the first start, so that the
    memory that sufficed still does. Only where the workers cannot share the batch evenly, it becomes smaller, and the learning rate with
    it (the linear rule); the schedule stays.

    Args:
        cfg: changed in place; not frozen.
    """
    starts = _starts(cfg.OUTPUT_DIR)
    if "TORCHELASTIC_RUN_ID" not in os.environ or not starts or "images_per_part" not in starts[0]:
        return
    solver, workers = cfg.SOLVER, get_world_size()
    batch, parts = solver.IMS_PER_BATCH, solver.ACCUMULATE
    if batch % workers:
        if batch < workers:
            raise Section(cfg, "SOLVER").refusal("IMS_PER_BATCH", f"at least the number of workers, {workers}")
        solver.IMS_PER_BATCH = batch - batch % workers
        solver.BASE_LR *= solver.IMS_PER_BATCH / batch
        solver.REFERENCE_BATCH_SIZE = solver.IMS_PER_BATCH if solver.REFERENCE_BATCH_SIZE else 0
        logger.warning(
            "%d workers cannot share a batch of %d images evenly: it has %d now, and the learning rate follows: %.6g.",
            workers,
            batch,
            solver.IMS_PER_BATCH,
            solver.BASE_LR,
        )
    share = solver.IMS_PER_BATCH // workers
    least = max(parts, -(-share // starts[0]["images_per_part"]))
    solver.ACCUMULATE = next(n for n in range(min(least, share), share + 1) if share % n == 0)
    if workers != starts[0].get("workers"):
        logger.warning(
            "%d workers instead of %d: the batch of %d images is kept, each worker computes %d of them in %d parts; the learning rate "
            "stays %.6g.",
            workers,
            starts[0].get("workers"),
            solver.IMS_PER_BATCH,
            share,
            solver.ACCUMULATE,
            solver.BASE_LR,
        )


def _starts(output_dir: str | Path) -> list[dict[str, Any]]:
    """Of the run that the folder belongs to, from its first one on."""
    path = Path(output_dir) / RUN_FILE
    try:
        require_regular_file(path)
        starts = json.loads(path.read_text(encoding="utf-8"))["starts"]
        return [start for start in starts if start["run"] == starts[-1]["run"]]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return []
