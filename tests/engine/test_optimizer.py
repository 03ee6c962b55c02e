from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from detkit.config import get_cfg
from detkit.engine.optimizer import ParameterFactor, build_gradient_clipper, build_optimizer, parameter_groups
from detkit.layers import FixedStatisticsBatchNorm


def _model() -> nn.Module:
    model = nn.ModuleDict({"backbone": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), "head": nn.Linear(4, 2)})
    model["backbone"][0].bias.requires_grad_(False)
    return model


def _by_name(model: nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_biases_norms_and_prefixes_have_their_own_rates() -> None:
    model = _model()
    groups = parameter_groups(
        model,
        lr=1.0,
        weight_decay=0.5,
        norm_weight_decay=0.0,
        bias_weight_decay=0.25,
        bias_lr_factor=2.0,
        factors=[ParameterFactor("backbone.", 0.1), ParameterFactor("backbone.1.", 0.01, 10.0)],
    )
    assert _by_name(model, groups) == {
        "backbone.0.weight": (0.1, 0.5),
        "backbone.1.weight": (0.01, 0.0),
        "backbone.1.bias": (0.02, 2.5),
        "head.weight": (1.0, 0.5),
        "head.bias": (2.0, 0.25),
    }


def test_shared_parameters_stand_in_one_group() -> None:
    layer = nn.Linear(2, 2)
    groups = parameter_groups(nn.ModuleList([layer, layer]), lr=1.0, weight_decay=0.0)
    assert sum(len(group["params"]) for group in groups) == 2


def test_a_prefix_that_fits_nothing_is_named() -> None:
    cfg = get_cfg()
    cfg.SOLVER.PARAMETER_FACTORS = [["bakcbone.", 0.1]]
    with pytest.raises(ValueError, match=r"begins with 'bakcbone\.'.*begin with backbone, head"):
        build_optimizer(cfg, _model())


@pytest.mark.parametrize("entry", ["backbone", ["backbone."], [0.1, "backbone."], ["a", 1, 2, 3]])
def test_a_malformed_factor_is_explained(entry: object) -> None:
    cfg = get_cfg()
    cfg.SOLVER.PARAMETER_FACTORS = [entry]
    with pytest.raises(ValueError, match="PARAMETER_FACTORS"):
        build_optimizer(cfg, _model())


@pytest.mark.parametrize(("name", "kind"), [("SGD", torch.optim.SGD), ("AdamW", torch.optim.AdamW)])
def test_the_named_optimizer_is_built(name: str, kind: type) -> None:
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.NESTEROV = name, 0.5, 0.8, True
    optimizer = build_optimizer(cfg, _model())
    assert type(optimizer) is kind
    assert optimizer.defaults["lr"] == 0.5
    if name == "SGD":
        assert optimizer.defaults["momentum"] == 0.8 and optimizer.defaults["nesterov"]


def test_unknown_names_list_the_known_ones() -> None:
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER = "Adam"
    with pytest.raises(ValueError, match="SOLVER.OPTIMIZER is 'Adam'. It has to be one of 'SGD', 'AdamW'"):
        build_optimizer(cfg, _model())
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = True, "all"
    with pytest.raises(ValueError, match="'value', 'norm', 'full_model'"):
        build_gradient_clipper(cfg)


@pytest.mark.parametrize(
    ("clip_type", "expected"),
    [
        ("value", [[1.0, -1.0], [0.5]]),
        ("norm", [[0.6, -0.8], [0.5]]),
        ("full_model", [[3 / 25.25**0.5, -4 / 25.25**0.5], [0.5 / 25.25**0.5]]),
    ],
)
def test_gradients_are_clipped(clip_type: str, expected: list[list[float]]) -> None:
    cfg = get_cfg()
    assert build_gradient_clipper(cfg) is None
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = clip_type, 1.0
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, -4.0]), torch.tensor([0.5])
    build_gradient_clipper(cfg)(parameters)
    torch.testing.assert_close([p.grad for p in parameters], [torch.tensor(e) for e in expected], atol=1e-5, rtol=1e-5)


def test_biases_of_norms_can_have_the_learning_rate_of_weights() -> None:
    """mmdetection's bias_lr_mult."""
    model = _model()
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.BIAS_LR_FACTOR, cfg.SOLVER.BIAS_LR_FACTOR_OF_NORMS = 1.0, 2.0, False
    rates = {name: lr for name, (lr, _) in _by_name(model, build_optimizer(cfg, model).param_groups).items()}
    assert rates == {"backbone.0.weight": 1.0, "backbone.1.weight": 1.0, "backbone.1.bias": 1.0, "head.weight": 1.0, "head.bias": 2.0}


def test_affine_part_of_fixed_batch_norms_decays_as_norms() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), FixedStatisticsBatchNorm(4))
    groups = parameter_groups(model, lr=1.0, weight_decay=0.5, norm_weight_decay=0.25)
    assert _by_name(model, groups) == {"0.weight": (1.0, 0.5), "1.weight": (1.0, 0.25), "1.bias": (1.0, 0.25)}


# fused ------------------------------------------------------------------------------------------------------------------------------------


def _optimizer(name: str, model: nn.Module, *, fused: bool) -> torch.optim.Optimizer:
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.FUSED = name, 0.1, 0.01, fused
    optimizer = build_optimizer(cfg, model)
    assert bool(optimizer.defaults["fused"]) is fused
    return optimizer


def _steps(model: nn.Module, optimizer: torch.optim.Optimizer, number: int, *, seed: int = 0, without: Any = ()) -> None:
    """Steps on random gradients, contiguous ones."""
    rng = torch.Generator().manual_seed(seed)
    for _ in range(number):
        for name, parameter in model.named_parameters():
            gradient = torch.randn(parameter.shape, generator=rng)
            parameter.grad = None if name in without else gradient
        optimizer.step()


def _nested() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "head": nn.Linear(4, 2)}).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("resumed", [False, True], ids=["as it began", "resumed in the other form"])
def test_fused_steps_are_the_same_steps(name: str, resumed: bool) -> None:
    """Also for weights that are channels last and states that were saved contiguous."""
    models, states = [_nested(), _nested()], []
    for model, fused in zip(models, (True, False), strict=True):
        optimizer = _optimizer(name, model, fused=fused)
        _steps(model, optimizer, 3)
        states.append(copy.deepcopy(optimizer.state_dict()["state"]))
    torch.testing.assert_close(states[0], states[1])
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict())
    for model, fused, state in zip(models, (not resumed, resumed), states, strict=True):
        optimizer = _optimizer(name, model, fused=fused)
        saved = {index: {key: value.contiguous() for key, value in entry.items()} for index, entry in state.items()}
        optimizer.load_state_dict(optimizer.state_dict() | {"state": saved})
        _steps(model, optimizer, 3, seed=1)
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict())


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_parameter_may_get_its_first_gradient_later(name: str) -> None:
    models = [_nested(), _nested()]
    for model, fused in zip(models, (True, False), strict=True):
        optimizer = _optimizer(name, model, fused=fused)
        _steps(model, optimizer, 2, without={"head.weight"})
        _steps(model, optimizer, 2)
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict())


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_first_step_that_is_skipped_leaves_nothing_behind(name: str) -> None:
    """As while the loss scale of float16 is looked for."""
    models = [_nested(), _nested()]
    for model, skip in zip(models, (True, False), strict=True):
        optimizer: Any = _optimizer(name, model, fused=True)
        if skip:
            optimizer.grad_scale, optimizer.found_inf = None, torch.ones(())
            _steps(model, optimizer, 1, seed=5)
            torch.testing.assert_close(model.state_dict(), _nested().state_dict(), rtol=0, atol=0)
            del optimizer.grad_scale, optimizer.found_inf
        _steps(model, optimizer, 2)
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)


def test_devices_without_fused_kernels_take_the_plain_optimizer() -> None:
    with torch.device("meta"):
        assert not build_optimizer(get_cfg(), _nested()).defaults["fused"]
