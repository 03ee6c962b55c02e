"""Half precision, GPUs, and what a training step keeps in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from detkit.engine import TrainingStep
from lsnet import convolution
from lsnet.convolution import convolve_at
from lsnet.reading import SourceScale
from tests.toys.outlines import SIZE

from .test_detector import VARIANTS, batch_of, options
from .test_mapper import ALL_KINDS, CROP_AND_MIRROR, FINDERS, mapper_of
from .test_sampling import random_inputs
from .test_whole import model_of

on_a_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=on_a_gpu)]
#: from boxes, so that the losses are not at their steepest, where rounding moves them far
START = ("HEAD.START_SIZE", 3.0)
SCALE = SourceScale((0.5, 0.5), (0.5, 0.5))


def values_and_gradients(device: str, inputs: list[Tensor]) -> list[Tensor]:
    """Of convolutions at landmarks, on two levels that share the weight."""
    leaves = [value.detach().to(device).requires_grad_() for value in inputs]
    y = convolve_at(*leaves) + convolve_at(*leaves, SCALE)
    return [y.detach().cpu(), *(gradient.cpu() for gradient in torch.autograd.grad(y.float().square().sum(), leaves))]


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_train_and_detect(variant: str) -> None:
    model = model_of("bbox", *options(*VARIANTS[variant], *START, "TEST.SCORE_THRESH", 0.0)).train()
    full = {name: loss.item() for name, loss in model(batch_of()).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch_of())
        with torch.no_grad():
            found = model.eval()(batch_of())[0]["instances"]
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(full, rel=0.05)
    sum(losses.values()).backward()
    assert all(weight.grad.dtype == torch.float32 and weight.grad.isfinite().all() for weight in model.parameters())
    assert len(found) and found.pred_boxes.tensor.isfinite().all() and found.scores.isfinite().all()


@pytest.mark.parametrize(
    "device, dtype",
    [("cpu", torch.bfloat16), *(pytest.param("cuda", dtype, marks=on_a_gpu) for dtype in (None, torch.bfloat16, torch.float16))],
)
@pytest.mark.parametrize("task", FINDERS)
def test_tasks_take_a_step(task: str, device: str, dtype: torch.dtype | None, image_file: Path) -> None:
    record: dict[str, Any] = {"file_name": str(image_file), "height": SIZE[0], "width": SIZE[1], "image_id": 1, "annotations": ALL_KINDS}
    batch = [mapper_of(task, augmentations)(record) for augmentations in ([], CROP_AND_MIRROR)]
    model = model_of(task, *options(*START)).train()
    full = {name: loss.item() for name, loss in model(batch).items()}
    model.to(device)
    before = [weight.detach().clone() for weight in model.parameters()]
    step = TrainingStep(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=1e-3), amp_dtype=dtype)
    assert step(iter([batch]), iteration=0).losses == pytest.approx(full, rel=0.05)
    assert all(weight.isfinite().all() for weight in model.parameters())
    assert dtype is torch.float16 or any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_convolutions_at_landmarks_in_half_precision(dtype: torch.dtype, device: str) -> None:
    """Positions keep their precision, and float32 leaves get float32 gradients."""
    inputs = random_inputs()
    inputs[2] = inputs[2] / 10
    with torch.autocast(device, dtype=dtype):
        half = values_and_gradients(device, inputs)
        assert convolve_at(inputs[0].to(device, dtype), *(value.to(device) for value in inputs[1:])).dtype == dtype
    for actual, expected in zip(half, values_and_gradients("cpu", inputs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.02 * expected.abs().max().item())


@pytest.mark.gpu
@on_a_gpu[1]
def test_a_gpu_gives_what_a_cpu_gives() -> None:
    pairs = (values_and_gradients(device, random_inputs()) for device in ("cuda", "cpu"))
    for actual, expected in zip(*pairs, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_products_are_not_kept_for_the_backward_pass(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would take most of the memory of a training step."""
    kept: list[StorageWeakRef] = []

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        products = linear(*args, **kwargs)
        kept.append(StorageWeakRef(products.untyped_storage()))
        return products

    linear = F.linear
    monkeypatch.setattr(F, "linear", watched)
    leaves = [value.detach().to(device).requires_grad_() for value in random_inputs()]
    y = convolve_at(*leaves)
    assert len(kept) == 1 and kept[0].expired() and y.requires_grad
    y.sum().backward()
    assert len(kept) == 2 and kept[1].expired()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_multiplying_again_changes_nothing(dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        results.append(values_and_gradients("cpu", random_inputs()))
        monkeypatch.setattr(convolution, "checkpoint", lambda function, *args, **_: function(*args))
        results.append(values_and_gradients("cpu", random_inputs()))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
