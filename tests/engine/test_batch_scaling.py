from __future__ import annotations

import pytest

from detkit.config import ConfigError, get_cfg
from detkit.engine.batch_scaling import scale_to_batch
from detkit.engine.setup import resolve_config


def _cfg(batch: int, reference: int = 16):
    cfg = get_cfg()
    solver = cfg.SOLVER
    solver.IMS_PER_BATCH, solver.REFERENCE_BATCH_SIZE = batch, reference
    solver.BASE_LR, solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS, solver.CHECKPOINT_PERIOD = 0.01, 900, (600, 800), 50, 100
    cfg.TEST.EVAL_PERIOD = 0
    return cfg


@pytest.mark.parametrize("batch", [4, 8, 32])
def test_rate_grows_and_schedule_shrinks_with_the_batch(batch: int) -> None:
    cfg = _cfg(batch)
    scale_to_batch(cfg)
    scale_to_batch(cfg)  # twice is once
    factor = batch / 16
    assert cfg.SOLVER.BASE_LR == pytest.approx(0.01 * factor)
    assert cfg.SOLVER.MAX_ITER * batch == 900 * 16
    assert cfg.SOLVER.STEPS == (600 / factor, 800 / factor)
    assert (cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.CHECKPOINT_PERIOD) == (50 / factor, 100 / factor)
    assert cfg.TEST.EVAL_PERIOD == 0


def test_the_reference_batch_and_no_reference_change_nothing() -> None:
    for cfg in (_cfg(16), _cfg(4, reference=0)):
        before = cfg.dump()
        scale_to_batch(cfg)
        assert cfg.dump() == before


def test_what_the_command_line_gives_is_kept() -> None:
    cfg = _cfg(8)
    scale_to_batch(cfg, keep=["SOLVER.MAX_ITER", "SOLVER.BASE_LR"])
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SOLVER.WARMUP_ITERS) == (900, 0.01, 100)


def test_the_reference_number_of_workers_is_refused() -> None:
    cfg = _cfg(16)
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 8
    with pytest.raises(ConfigError, match="SOLVER.REFERENCE_WORLD_SIZE is 8.*REFERENCE_BATCH_SIZE"):
        resolve_config(cfg)
