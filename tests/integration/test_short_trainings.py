"""A short training of every method with the config that is shipped for a laptop, on the embedded dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detkit.data import prepare_datasets
from detkit.engine import Trainer
from tests.config.architectures import ROOT, read

#: iterations at one sixth of the schedule, at most two minutes each on two cores
ITERATIONS = {"fcos": 80, "atss": 80, "dw": 80, "sparsercnn": 80, "lsnet": 60}


@pytest.mark.slow
@pytest.mark.parametrize("method", ITERATIONS)
def test_a_method_begins_to_learn(method: str, tmp_path: Path) -> None:
    """The loss falls, the seed is that of the header, and what is found is written in the form that ``EXPECTED_RESULTS`` asks for."""
    path = ROOT / "configs" / "quick" / f"{method}_shapes.yaml"
    cfg: Any = read(path).clone()
    wanted = {(task, metric) for task, metric, *_ in cfg.TEST.EXPECTED_RESULTS}
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.CHECKPOINT_PERIOD = ITERATIONS[method], (), 0
    cfg.SOLVER.WARMUP_ITERS = min(cfg.SOLVER.WARMUP_ITERS, 20)
    cfg.MODEL.DEVICE, cfg.OUTPUT_DIR, cfg.DATALOADER.NUM_WORKERS = "cpu", str(tmp_path), 0
    cfg.TEST.EVAL_PERIOD, cfg.TEST.EXPECTED_RESULTS = 0, []
    prepare_datasets(cfg)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    results = next(iter(trainer.train().values()))
    assert trainer.cfg.SEED == read(path).SEED
    losses = [json.loads(line)["total_loss"] for line in (tmp_path / "metrics.json").read_text().splitlines() if "total_loss" in line]
    assert np.isfinite(losses).all() and losses[-1] < 0.9 * losses[0], losses
    assert wanted <= {(task, metric) for task, metrics in results.items() for metric in metrics}
