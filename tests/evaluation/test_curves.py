from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detkit.evaluation import EvaluationError
from detkit.evaluation.curves import Series, ap_series, loss_series, read_metrics, smoothed


def test_later_lines_count_and_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(
        '{"iteration": 0, "a": 1}\n{"iteration": 2, "a": 5}\n\n{"iteration": 1, "a": NaN, "b": "text"}\n{"iteration": 2, "a": 3}\n'
    )
    metrics = read_metrics(path)
    assert list(metrics) == ["a"]
    np.testing.assert_array_equal(metrics["a"].iterations, [0, 2])
    np.testing.assert_array_equal(metrics["a"].values, [1.0, 3.0])


def test_only_the_last_line_may_be_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 0, "a": 1}\n{"iterat')
    assert read_metrics(path)["a"].values.tolist() == [1.0]
    path.write_text('{"iteration": 0, "a": 1}\n{"iterat\n{"iteration": 2, "a": 1}\n')
    with pytest.raises(EvaluationError, match=r"metrics\.json, line 2"):
        read_metrics(path)
    path.write_text('{"step": 0, "a": 1}\n')
    with pytest.raises(EvaluationError, match=r"metrics\.json, line 1"):
        read_metrics(path)


@pytest.mark.parametrize("count", [1, 2, 30, 101])
def test_smoothing_is_a_mean_over_a_window(count: int) -> None:
    values = np.random.default_rng(0).normal(size=count)
    half = int(count * 0.08 / 2)
    expected = [values[max(i - half, 0) : i + half + 1].mean() for i in range(count)]
    np.testing.assert_allclose(smoothed(Series(np.arange(count), values)).values, expected)


def test_series_are_found_by_name() -> None:
    series = Series(np.array([0]), np.array([1.0]))
    names = ["loss_b", "total_loss", "loss_a", "lr", "bbox/AP", "bbox/AP50", "bbox/AP75", "bbox/AP-AP", "val/segm/AP", "bbox/APl"]
    metrics = dict.fromkeys(names, series)
    assert list(loss_series(metrics)) == ["total_loss", "loss_a", "loss_b"]
    assert list(ap_series(metrics)) == ["bbox/AP", "bbox/AP50", "val/segm/AP"]
