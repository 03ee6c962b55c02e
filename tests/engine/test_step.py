from __future__ import annotations

import copy
import functools
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detkit.assigners import NonFiniteCostError
from detkit.engine.step import NonFiniteGradientError, NonFiniteLossError, TrainingStep


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


def test_an_assigner_that_meets_a_nan_has_its_images_named() -> None:
    class Matched(Regression):
        def forward(self, batch: list[dict]) -> dict[str, Tensor]:
            raise NonFiniteCostError([1, 2], "where it says" if batch[0]["image"][0] == 7 else "")

    batch = _batch()
    with pytest.raises(NonFiniteCostError, match=r"not finite at iteration 7 for the images 1 \(1\.jpg\), 2 \(2\.jpg\): the network"):
        _run([batch], Matched())
    batch[0]["image"][0] = 7
    with pytest.raises(NonFiniteCostError, match="not finite where it says: the network"):
        _run([batch], Matched())


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


class BadGradient(Regression):
    """A finite loss whose derivative is not: that of a square root at zero."""

    def forward(self, batch: list[dict]) -> dict[str, Tensor]:
        return super().forward(batch) | {"loss_b": (self.linear.bias * 0).sum().sqrt()}


def test_a_gradient_that_is_not_finite_is_named_before_the_weights_are_touched() -> None:
    """By value, what is infinite would be clipped to something that looks sound."""
    model = BadGradient()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NonFiniteGradientError, match=r"gradient of linear\.bias is not finite at iteration 7, on the images 0 \(0\.jpg\)"):
        _run([_batch()], model, clip=lambda parameters: nn.utils.clip_grad_value_(parameters, 1.0))
    torch.testing.assert_close(model.state_dict(), before)


def test_steps_that_the_loss_scale_skips_are_no_error_until_there_are_too_many() -> None:
    model = BadGradient()
    before = copy.deepcopy(model.state_dict())
    step = TrainingStep(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0), amp_dtype=torch.float16)
    for iteration in range(30):
        step(iter([_batch()]), iteration=iteration)
    with pytest.raises(NonFiniteGradientError, match=r"linear\.bias is not finite at iteration 30, as in the 30 steps before"):
        step(iter([_batch()]), iteration=30)
    torch.testing.assert_close(model.state_dict(), before)


def test_a_good_step_starts_the_count_of_skipped_ones_anew() -> None:
    model = BadGradient()
    step = TrainingStep(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=1e-6), amp_dtype=torch.float16)
    for good in (False, True) * 20:
        step.model = Regression() if good else model
        step.model.linear = model.linear
        for _ in range(2):
            step(iter([_batch()]), iteration=0)


class Counting(Regression):
    """Counts the batches in a buffer, as batch norms do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, batch: list[dict]) -> dict[str, Tensor]:
        self.count = self.count + 1
        return super().forward(batch)


def test_a_look_at_the_losses_changes_nothing() -> None:
    model = Counting()
    step = TrainingStep(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0))
    step(iter([_batch()]), iteration=0)
    state = copy.deepcopy(model.state_dict())
    model.eval()
    expected = Regression.forward(model, _batch())
    assert step.losses_now() == pytest.approx({name: float(value.detach()) for name, value in expected.items()})
    assert not model.training
    torch.testing.assert_close(model.state_dict(), state)


def test_what_comes_before_an_update_finds_gradients_and_the_old_weights() -> None:
    model = Regression()
    before, seen = copy.deepcopy(model.state_dict()), []

    def look() -> None:
        torch.testing.assert_close(model.state_dict(), before)
        seen.append(model.linear.weight.grad.abs().sum().item() > 0)

    TrainingStep(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0))(iter([_batch()]), iteration=0, before_update=look)
    assert seen == [True] and not torch.equal(model.state_dict()["linear.weight"], before["linear.weight"])


def test_the_wait_for_all_parts_is_counted() -> None:
    def slow_at_first():
        time.sleep(0.05)
        yield _batch()
        yield _batch()

    model = Regression()
    step = TrainingStep(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0), parts=2)
    assert step(slow_at_first(), iteration=0).data_time >= 0.05


# read late, as on a GPU ------------------------------------------------------------------------------------------------------------------


def _late(model: nn.Module, *, optimizer: type = torch.optim.SGD, momentum: float = 0.0, **options: Any) -> TrainingStep:
    torch.manual_seed(0)
    others = {"momentum": momentum} if optimizer is torch.optim.SGD else {}
    return TrainingStep(model=model, optimizer=optimizer(model.parameters(), lr=0.1, fused=True, **others), late=True, **options)


def _bad_batch() -> list[dict]:
    batch = _batch()
    batch[2]["image"][0] = float("nan")
    return batch


def test_reports_come_one_step_late_or_when_asked_for() -> None:
    model = Regression()
    step, now = _late(model), TrainingStep(model=(same := copy.deepcopy(model)), optimizer=torch.optim.SGD(same.parameters(), lr=0.1))
    expected = [now(iter([_batch()]), iteration=number, stop=number == 1) for number in range(3)]
    reports = [step(iter([_batch()]), iteration=number, stop=number == 1) for number in range(3)]
    assert reports[0] is None and step.settle().losses == expected[2].losses and step.settle() is None and step.is_sound
    for late, plain in zip(reports[1:], expected, strict=False):
        assert (late.iteration, late.losses, late.stop) == (plain.iteration, plain.losses, plain.stop)
    torch.testing.assert_close(model.state_dict(), same.state_dict())


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("amp_dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ask", [False, True], ids=["in the next step", "when asked for"])
def test_a_nan_read_late_has_changed_nothing_and_is_named_as_ever(optimizer: type, amp_dtype: Any, ask: bool) -> None:
    model = Regression()
    clip = functools.partial(nn.utils.clip_grad_value_, clip_value=1.0)
    step = _late(model, optimizer=optimizer, momentum=0.9, amp_dtype=amp_dtype, clip=clip)
    step(iter([_batch()]), iteration=6)
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(step.optimizer.state_dict()["state"])
    step(iter([_bad_batch()]), iteration=7)
    assert not step.is_sound
    with pytest.raises(NonFiniteLossError, match=r"iteration 7.*loss_a = nan, loss_b = nan.*2 \(2\.jpg\)") as error:
        step.settle() if ask else step(iter([_batch()]), iteration=8)
    assert error.value.iteration == 7
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(step.optimizer.state_dict()["state"], state, rtol=0, atol=0)


@pytest.mark.parametrize("amp_dtype", [None, torch.float16])
def test_an_infinite_loss_with_finite_gradients_is_not_learned_from_either(amp_dtype: Any) -> None:
    class Infinite(Regression):
        def forward(self, batch: list[dict]) -> dict[str, Tensor]:
            return super().forward(batch) | {"loss_c": torch.tensor(float("inf"))}

    model = Infinite()
    before, step = copy.deepcopy(model.state_dict()), _late(model, amp_dtype=amp_dtype)
    step(iter([_batch()]), iteration=7)
    with pytest.raises(NonFiniteLossError, match="loss_c = inf"):
        step.settle()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_gradient_that_is_not_finite_is_named_late_too() -> None:
    model = BadGradient()
    before, step = copy.deepcopy(model.state_dict()), _late(model)
    step(iter([_batch()]), iteration=7)
    assert not step.is_sound
    with pytest.raises(NonFiniteGradientError, match=r"gradient of linear\.bias is not finite at iteration 7, on the images 0 \(0\.jpg\)"):
        step(iter([_batch()]), iteration=8)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_skipped_steps_are_counted_late_too() -> None:
    step = _late(BadGradient(), amp_dtype=torch.float16)
    for iteration in range(31):
        step(iter([_batch()]), iteration=iteration)
    assert step.is_sound  # the scale is still looked for
    with pytest.raises(NonFiniteGradientError, match=r"linear\.bias is not finite at iteration 30, as in the 30 steps before"):
        step.settle()
