from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from detkit.engine.step import NonFiniteLossError, TrainingStep


class Regression(nn.Module):
    """Mean squared error per term, so that parts of equal size average to the whole; small enough for float16's first loss scale."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, batch: list[dict]) -> dict[str, Tensor]:
        error = (self.linear(torch.stack([image["image"] for image in batch])).float() - 1).square().mean(0) / 100
        return {"loss_a": error[0], "loss_b": error[1]}


def _batch(size: int = 4) -> list[dict]:
    rng = torch.Generator().manual_seed(0)
    return [{"image": torch.randn(3, generator=rng), "image_id": i, "file_name": f"{i}.jpg"} for i in range(size)]


def _run(batches: list, model: nn.Module | None = None, **options):
    torch.manual_seed(0)
    model = model or Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
    step = TrainingStep(model=model, optimizer=optimizer, parts=len(batches), **options)
    return step(iter(batches), iteration=7), model


def test_parts_take_the_same_step_as_the_whole_batch() -> None:
    batch = _batch()
    whole, model = _run([batch])
    halves, same = _run([batch[:2], batch[2:]])
    assert halves.losses == pytest.approx(whole.losses)
    torch.testing.assert_close(same.state_dict(), model.state_dict())


def test_gradients_do_not_add_up_over_steps() -> None:
    model = Regression()
    step = TrainingStep(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    for _ in range(2):
        step(iter([_batch()]), iteration=0)
    first = model.linear.weight.grad.clone()
    step(iter([_batch()]), iteration=0)
    torch.testing.assert_close(model.linear.weight.grad, first)


def test_a_nan_is_named_before_the_weights_are_touched() -> None:
    batch = _batch()
    batch[2]["image"][0] = float("nan")
    model = Regression()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NonFiniteLossError, match=r"iteration 7.*loss_a = nan, loss_b = nan.*2 \(2\.jpg\)"):
        _run([batch], model)
    torch.testing.assert_close(model.state_dict(), before)


def test_an_infinite_term_alone_is_named() -> None:
    class OneBadTerm(Regression):
        def forward(self, batch: list[dict]) -> dict[str, Tensor]:
            return super().forward(batch) | {"loss_b": self.linear.bias.sum() / 0.0}

    with pytest.raises(NonFiniteLossError, match="loss_b") as error:
        _run([_batch()], OneBadTerm())
    assert "loss_a" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_takes_nearly_the_same_step(dtype: torch.dtype) -> None:
    exact, model = _run([_batch()])
    mixed, same = _run([_batch()], amp_dtype=dtype)
    assert mixed.losses == pytest.approx(exact.losses, rel=0.03)
    assert mixed.losses != exact.losses
    torch.testing.assert_close(same.state_dict(), model.state_dict(), atol=0.01, rtol=0.03)


def test_clipping_sees_unscaled_gradients() -> None:
    seen = []

    def watch(parameters) -> None:
        seen.append(torch.cat([p.grad.flatten() for p in parameters]).norm().item())

    _run([_batch()], clip=watch)
    _run([_batch()], clip=watch, amp_dtype=torch.float16)
    assert seen[1] == pytest.approx(seen[0], rel=0.03)


@pytest.mark.parametrize("stop", [False, True])
def test_a_request_to_stop_comes_back(stop: bool) -> None:
    model = Regression()
    step = TrainingStep(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert step(iter([_batch()]), iteration=0, stop=stop).stop is stop


def test_a_request_to_another_worker_comes_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the mean over two workers says it, of which this one was not asked."""
    monkeypatch.setattr("detkit.engine.step.reduce_mean", lambda tensor: torch.cat([tensor[:-1], tensor.new_tensor([0.5])]))
    model = Regression()
    step = TrainingStep(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert step(iter([_batch()]), iteration=0, stop=False).stop
