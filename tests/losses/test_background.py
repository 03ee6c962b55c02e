import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from detkit.losses import background_loss, blocks, negative_log_rest


def plain(logits, quality, gamma, ignore):
    score = logits.sigmoid() if quality is None else logits.sigmoid() * quality.sigmoid()[..., None]
    loss = score**gamma * -(1 - score).log()
    return (loss if ignore is None else loss * ~ignore[..., None]).sum()


@pytest.mark.parametrize("with_quality", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 2.5])
@pytest.mark.parametrize("with_ignore", [False, True])
def test_value_and_gradient_are_those_of_the_formula(monkeypatch, with_quality, gamma, with_ignore):
    monkeypatch.setattr(blocks, "CACHED", 24)  # several blocks, the last one shorter
    torch.manual_seed(0)
    logits = torch.randn(2, 7, 5, dtype=torch.float64, requires_grad=True)
    quality = torch.randn(2, 7, dtype=torch.float64, requires_grad=True) if with_quality else None
    ignore = torch.rand(2, 7) > 0.6 if with_ignore else None
    inputs = [x for x in (logits, quality) if x is not None]
    actual, expected = background_loss(logits, quality, gamma=gamma, ignore=ignore), plain(logits, quality, gamma, ignore)
    assert_close(actual, expected)
    scaled = background_loss(logits, quality, gamma=gamma, ignore=ignore, scale=torch.tensor(3.0))
    assert_close(scaled, 3 * expected)
    wanted = torch.autograd.grad(3 * expected, inputs)
    for gradients in (torch.autograd.grad(3 * actual, inputs), torch.autograd.grad(scaled, inputs)):
        for ours, theirs in zip(gradients, wanted, strict=True):
            assert_close(ours, theirs)


def test_without_gamma_it_is_binary_cross_entropy():
    logits = torch.linspace(-6, 6, 30).view(1, 5, 6)
    assert_close(background_loss(logits, gamma=0), F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="sum"))


def test_certain_mistakes_stay_finite():
    logits, quality = torch.full((1, 1, 2), 80.0, requires_grad=True), torch.full((1, 1), 80.0, requires_grad=True)
    loss = background_loss(logits, quality)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all() and quality.grad.isfinite().all()
    assert negative_log_rest(torch.tensor([0.0, 1.0])).isfinite().all()


def test_no_locations_at_all():
    assert background_loss(torch.zeros(2, 0, 3), torch.zeros(2, 0)) == 0
