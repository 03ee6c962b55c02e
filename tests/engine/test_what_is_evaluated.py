"""Whose AP a training reports, what it is compared with, and on which pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from detkit.engine import Trainer
from detkit.engine.evaluate import check_expected_results, evaluate
from tests.toys.sliding import sliding_cfg


def average_precision(cfg: Any, model: torch.nn.Module) -> float:
    return evaluate(cfg, model)["toy"]["bbox"]["AP"]


def test_the_moving_average_is_evaluated_and_not_the_trained_weights(cfg: Any, tmp_path: Path) -> None:
    cfg = sliding_cfg(cfg)
    cfg.SOLVER.EMA.ENABLED = True
    cfg.SOLVER.BASE_LR, cfg.SOLVER.STEPS, cfg.SOLVER.GAMMA = 0.02, (5,), 25.0  # a last step that the average follows half
    trainer = Trainer(cfg)
    results = trainer.train()["toy"]["bbox"]["AP"]
    assert trainer.model.shift > 1.3 * trainer.ema.model.shift > 0
    trained, averaged = (average_precision(cfg, model.eval()) for model in (trainer.model, trainer.ema.model))
    assert 1 < trained < averaged - 5 < 94
    assert results == pytest.approx(averaged, abs=1e-6)
    saved = json.loads((Path(cfg.OUTPUT_DIR) / "results.json").read_text())
    assert saved["results"]["toy"]["bbox"]["AP"] == pytest.approx(averaged, abs=1e-6)


def test_without_an_average_the_trained_weights_are_evaluated(cfg: Any) -> None:
    trainer = Trainer(sliding_cfg(cfg))
    results = trainer.train()["toy"]["bbox"]["AP"]
    assert 1 < results < 99 and results == pytest.approx(average_precision(trainer.cfg, trainer.model.eval()), abs=1e-6)


@pytest.mark.parametrize(
    ("value", "fits"), [(30.0, True), (32.0, True), (28.0, True), (32.01, False), (27.9, False), (float("nan"), False)]
)
def test_expected_results(cfg: Any, value: float, fits: bool) -> None:
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 30.0, 2.0]]
    results = {"toy": {"bbox": {"AP": value, "AP50": 30.0}, "segm": {"AP": 30.0}}}
    if fits:
        check_expected_results(cfg, results)
        return
    with pytest.raises(SystemExit, match=r"bbox AP is .*, expected 30\.0 \+- 2\.0"):
        check_expected_results(cfg, results)


def test_expected_results_are_looked_up_by_task_and_metric(cfg: Any) -> None:
    cfg.TEST.EXPECTED_RESULTS = [["segm", "AP50", 20.0, 1.0]]
    check_expected_results(cfg, {"toy": {"bbox": {"AP": 1.0, "AP50": 2.0}, "segm": {"AP": 3.0, "AP50": 20.0}}})
    for other in ({"bbox": {"AP50": 20.0}}, {"segm": {"AP": 20.0}}, {}):
        with pytest.raises(SystemExit, match="segm AP50 is None"):
            check_expected_results(cfg, {"toy": other, "another": {"segm": {"AP50": 20.0}}})


def test_multi_scale_testing_starts_from_the_files_in_full_size(cfg: Any) -> None:
    """Else a picture would be made small for the single scale, and large again."""
    cfg = sliding_cfg(cfg)
    cfg.INPUT.MIN_SIZE_TEST = 32
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.FLIP = True, (64,), False
    given: list[tuple[int, int]] = []

    def build_loader(cfg: Any, name: str) -> Any:
        loader = Trainer.build_test_loader(cfg, name)
        given.extend(tuple(item["image"].shape[1:]) for batch in loader for item in batch)
        return loader

    model = Trainer.build_model(cfg)
    evaluate(cfg, model.eval(), build_loader=build_loader)
    assert given == [(32, 48)] * 8 + [(64, 96)] * 8
    assert model.seen == given
