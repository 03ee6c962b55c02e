"""Single logits beside all logits: one gradient of both."""

import pytest
import torch
from torch.testing import assert_close

from detkit.losses import background_loss, chosen_logits

BATCH, PRIORS, CLASSES = 2, 7, 3
PRIOR_INDEX, LABELS = torch.tensor([0, 13, 5, 13, 13, 6]), torch.tensor([2, 0, 1, 0, 2, 1])  # one score twice


@pytest.fixture(params=["classes last in memory", "priors last in memory"])
def logits(request):
    torch.manual_seed(0)
    if request.param == "classes last in memory":
        return torch.randn(BATCH, PRIORS, CLASSES, requires_grad=True)
    return torch.randn(BATCH, CLASSES, PRIORS).transpose(1, 2).requires_grad_()


def plain(logits):
    return logits.flatten(0, 1)[PRIOR_INDEX, LABELS]


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_the_gradient_is_that_of_both_uses(logits, factor):
    chosen, everywhere = chosen_logits(logits, PRIOR_INDEX, LABELS)
    assert_close(chosen, plain(logits), atol=0, rtol=0)
    assert_close(everywhere, logits, atol=0, rtol=0)
    (found,) = torch.autograd.grad(chosen.square().sum() + factor * background_loss(everywhere), logits)
    (expected,) = torch.autograd.grad(plain(logits).square().sum() + factor * background_loss(logits), logits)
    assert_close(found, expected)


def test_each_use_alone_has_its_own_gradient(logits):
    chosen, everywhere = chosen_logits(logits, PRIOR_INDEX, LABELS)
    (found,) = torch.autograd.grad(chosen.exp().sum(), logits, retain_graph=True)
    assert_close(found, torch.autograd.grad(plain(logits).exp().sum(), logits)[0])
    (found,) = torch.autograd.grad(everywhere.exp().sum(), logits)
    assert_close(found, logits.exp())
    (found,) = torch.autograd.grad(chosen_logits(logits, PRIOR_INDEX, LABELS)[1].sum(), logits)
    assert_close(found, torch.ones_like(logits))  # a gradient that is one number of memory


def test_a_gradient_that_belongs_to_others_is_not_written_to(logits):
    chosen, everywhere = chosen_logits(logits, PRIOR_INDEX, LABELS)
    (found,) = torch.autograd.grad(chosen.sum() + everywhere.sum(), logits)
    (expected,) = torch.autograd.grad(plain(logits).sum() + logits.sum(), logits)
    assert_close(found, expected)


def test_a_second_gradient_is_refused_and_not_wrong(logits):
    chosen, everywhere = chosen_logits(logits, PRIOR_INDEX, LABELS)
    loss = chosen.sum() + background_loss(everywhere)
    torch.autograd.grad(loss, logits, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, logits)


def test_without_gradient_nothing_is_copied(logits):
    with torch.no_grad():
        assert chosen_logits(logits, PRIOR_INDEX, LABELS)[1] is logits
