from __future__ import annotations

import pytest
import torch
from torch import nn

from detkit.engine.ema import WeightAverage


def _set(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def test_average_follows_its_definition() -> None:
    model = nn.Linear(1, 1)
    average = WeightAverage(model, decay=0.3)
    expected = None
    for t, value in enumerate([1.0, 2.0, 5.0, -3.0, 7.0]):
        _set(model, value)
        average.update(model)
        decay = min(0.3, (1 + t) / (10 + t))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert average.model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 7.0


def test_buffers_are_copied() -> None:
    model = nn.BatchNorm1d(2)
    average = WeightAverage(model, decay=0.9)
    model(torch.randn(8, 2))
    average.update(model)
    torch.testing.assert_close(average.model.running_mean, model.running_mean)


def test_continues_from_its_state() -> None:
    model = nn.Linear(1, 1)
    whole, first = WeightAverage(model, decay=0.99), WeightAverage(model, decay=0.99)
    for value in (1.0, 4.0):
        _set(model, value)
        whole.update(model)
        first.update(model)
    second = WeightAverage(nn.Linear(1, 1), decay=0.99)
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    _set(model, 9.0)
    whole.update(model)
    second.update(model)
    torch.testing.assert_close(second.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay is"):
        WeightAverage(nn.Linear(1, 1), decay)
