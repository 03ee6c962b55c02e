"""Batch norms with fixed statistics whose affine part learns, and where a config asks for them."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from torch import nn
from torch.testing import assert_close

from detkit.config import ConfigError, get_cfg
from detkit.layers import ConstantBatchNorm, FixedStatisticsBatchNorm, keep_constants, train_affine


def random_frozen(channels: int = 3) -> FrozenBatchNorm2d:
    frozen = FrozenBatchNorm2d(channels)
    for name, buffer in frozen.named_buffers():
        buffer.copy_(torch.rand(channels) + (0.5 if name == "running_var" else 0.0))
    return frozen


def test_function_of_the_frozen_norm_and_its_gradients() -> None:
    torch.manual_seed(0)
    frozen, x = random_frozen(), torch.randn(2, 3, 4, 5)
    norm = FixedStatisticsBatchNorm.from_frozen(frozen).train()
    out = norm(x)
    assert_close(out, frozen(x))
    out.sum().backward()
    normalized = (x - frozen.running_mean.view(3, 1, 1)) / (frozen.running_var.view(3, 1, 1) + frozen.eps).sqrt()
    assert_close(norm.weight.grad, normalized.sum((0, 2, 3)))
    assert_close(norm.bias.grad, torch.full((3,), 40.0))
    assert_close(norm.running_mean, frozen.running_mean)


def test_state_dict_of_a_frozen_norm_fits() -> None:
    frozen = random_frozen()
    norm = FixedStatisticsBatchNorm(3)
    norm.load_state_dict(frozen.state_dict())
    assert_close(norm(torch.ones(1, 3, 2, 2)), frozen(torch.ones(1, 3, 2, 2)))


def test_norms_of_frozen_convolutions_stay() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), random_frozen(), nn.Conv2d(3, 3, 1), random_frozen())
    network[0].requires_grad_(False)
    assert train_affine(network) == 1
    assert [type(module).__name__ for module in network] == ["Conv2d", "FrozenBatchNorm2d", "Conv2d", "FixedStatisticsBatchNorm"]


@pytest.mark.parametrize("freeze_at", [0, 2])
def test_resnet_of_a_config(freeze_at: int) -> None:
    """All norms learn but those of the frozen stages; outputs and names of weights are those of frozen norms."""
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64])
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", "build_fpn_backbone", "MODEL.BACKBONE.FREEZE_AT", freeze_at])
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    fixed = build_backbone(cfg).eval()
    cfg.MODEL.BACKBONE.TRAIN_AFFINE = True
    trained = build_backbone(cfg).eval()
    trained.load_state_dict(fixed.state_dict())
    image = torch.rand(1, 3, 64, 64)
    assert_close(trained(image), fixed(image))
    kinds = {name.split(".")[1]: type(module) for name, module in trained.named_modules() if name.endswith("norm") and "bottom_up" in name}
    frozen = {name for name, kind in kinds.items() if issubclass(kind, FrozenBatchNorm2d)}
    assert frozen == ({"stem", "res2"} if freeze_at else set())
    assert set(kinds) == {"stem", "res2", "res3", "res4", "res5"}


def test_backbone_without_fixed_norms_is_refused() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", "build_fpn_backbone", "MODEL.RESNETS.NORM", "BN"])
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.BACKBONE.TRAIN_AFFINE, cfg.MODEL.BACKBONE.FREEZE_AT = True, 0
    with pytest.raises(ConfigError, match="MODEL.BACKBONE.TRAIN_AFFINE"):
        build_backbone(cfg)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_constants_give_what_the_frozen_norm_gives_and_follow_its_buffers(dtype) -> None:
    network = nn.Sequential(random_frozen(), random_frozen()).to(dtype)
    expected, x = copy.deepcopy(network), torch.randn(2, 3, 4, 5, dtype=dtype, requires_grad=True)
    keep_constants(network)
    assert all(type(norm) is ConstantBatchNorm for norm in network)
    loaded = random_frozen().state_dict()
    for change in (nn.Module.eval, lambda norm: norm.running_var.mul_(2), lambda norm: norm.load_state_dict(loaded)):
        for each in (expected, network):
            change(each[0])
        ours, theirs = network(x), expected(x)
        rounding = {"rtol": 0.02, "atol": 0.05} if dtype == torch.bfloat16 else {}
        assert_close(ours, theirs, **rounding)
        assert_close(torch.autograd.grad(ours.float().sum(), x), torch.autograd.grad(theirs.float().sum(), x), **rounding)
    assert_close(network.double()(x.double()), expected.double()(x.double()))
