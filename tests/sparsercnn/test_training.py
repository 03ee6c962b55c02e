"""Sparse R-CNN learns one batch by heart, and trains with what the engine offers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from detkit.assigners import NonFiniteCostError
from detkit.checkpoint import read_checkpoint
from detkit.engine import Trainer
from tests.toys.batch import average_precision, make_batch
from tests.toys.datasets import make_toy_data, register_toy_data
from tests.toys.detectors import tiny_sparse_cfg


def test_one_batch_is_learned_by_heart() -> None:
    torch.manual_seed(0)
    model, batch = build_model(tiny_sparse_cfg("PROPOSAL_INIT", "grid", "HEAD.BOX_PRED_GAIN", 0.0)), make_batch()
    steps = 300
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    assert average_precision(model, batch) > 90


@pytest.fixture
def cfg(tmp_path: Path):
    """Four iterations of four images in two parts, averaged weights, a checkpoint after two."""
    cfg = tiny_sparse_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (register_toy_data(make_toy_data(tmp_path / "data"), "toy_sparse"),)
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.ASPECT_RATIO_GROUPING = 0, False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE = "AdamW", 1e-3, 4, 2
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.CHECKPOINT_PERIOD = 4, (3,), 1, 2
    cfg.SOLVER.EMA.ENABLED = True
    cfg.SEED, cfg.OUTPUT_DIR = 1, str(tmp_path / "whole")
    return cfg


def test_resumed_training_ends_as_one_left_alone(cfg, tmp_path: Path) -> None:
    whole = Trainer(cfg)
    whole.resume_or_load(resume=False)
    assert "bbox" in whole.train()["toy_sparse"]
    checkpoint = Path(cfg.OUTPUT_DIR) / "model_0000001.pth"
    cfg.OUTPUT_DIR = str(tmp_path / "resumed")
    Path(cfg.OUTPUT_DIR).mkdir()
    (Path(cfg.OUTPUT_DIR) / checkpoint.name).write_bytes(checkpoint.read_bytes())
    (Path(cfg.OUTPUT_DIR) / "last_checkpoint").write_text(checkpoint.name)
    resumed = Trainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    resumed.train()
    states = [read_checkpoint(tmp_path / run / "model_final.pth") for run in ("whole", "resumed")]
    for name in ("model", "trained_model"):
        torch.testing.assert_close(states[1][name], states[0][name], rtol=0, atol=0)


def test_values_that_are_not_finite_stop_the_training_with_a_checkpoint(cfg) -> None:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.model.head.stages[1].cls_score.bias.data[0] = float("nan")
    with pytest.raises(NonFiniteCostError, match=r"at iteration 0 for the images .*\.png; stage1\)"):
        trainer.train()
    assert (Path(cfg.OUTPUT_DIR) / "model_nan_iter0000000.pth").exists()


def test_mixed_precision_trains(cfg) -> None:
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE = True, "bfloat16"
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())
