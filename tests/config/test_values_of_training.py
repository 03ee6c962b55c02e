"""The numbers of a config (training, multi-scale testing) reach the object that they are for: an unusual value is read back.

The tables have all numeric keys of a section; a key that is added without a row fails.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from detkit.config import get_cfg
from detkit.engine import Trainer
from detkit.tta import SoftVoting, build_multi_scale_detector
from tests.toys.datasets import make_toy_data, register_toy_data, toy_cfg
from tests.toys.detectors import tiny_cfg

from .reading_back import WHOLE, Row, assert_read, numeric_keys, with_values

# training ---------------------------------------------------------------------------------------------------------------------------------


def learning_rates(trainer: Trainer) -> list[float]:
    """The factor on BASE_LR in each of 10 iterations."""
    rates = []
    for _ in range(10):
        rates.append(trainer.optimizer.param_groups[0]["lr"] / trainer.cfg.SOLVER.BASE_LR)
        trainer.optimizer.step()
        trainer.scheduler.step()
    return rates


def group_of(trainer: Trainer, suffix: str) -> dict[str, Any]:
    """The parameter group that holds the first parameter whose name ends so."""
    wanted = next(parameter for name, parameter in trainer.model.named_parameters() if name.endswith(suffix))
    (found,) = [group for group in trainer.optimizer.param_groups if any(parameter is wanted for parameter in group["params"])]
    return found


def hook_named(trainer: Trainer, name: str) -> Any:
    (found,) = [hook for hook in trainer._hooks if type(hook).__name__ == name]
    return found


def clipped(trainer: Trainer) -> Any:
    """A gradient (30, 40) after clipping."""
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([30.0, 40.0])
    trainer.training_step._clip([parameter])
    return parameter.grad


CLIP = {"CLIP_GRADIENTS.ENABLED": True}
LONG = {"MAX_ITER": 20, "WARMUP_ITERS": 0, "STEPS": (15,)}
STEPPED = {"LR_SCHEDULER_NAME": "WarmupStepWithFixedGammaLR", "WARMUP_ITERS": 0, "MAX_ITER": 12, "GAMMA": 0.1}
SOLVER = {
    "BASE_LR": Row(0.037, lambda t: [group_of(t, "cls_score.weight")["initial_lr"]]),
    "BASE_LR_END": Row(
        0.002, lambda t: [0.01 * learning_rates(t)[9]], {"LR_SCHEDULER_NAME": "WarmupCosineLR", "MAX_ITER": 9, "BASE_LR": 0.01}
    ),
    "MOMENTUM": Row(0.55, lambda t: [group["momentum"] for group in t.optimizer.param_groups]),
    "NESTEROV": Row(True, lambda t: [group["nesterov"] for group in t.optimizer.param_groups]),
    "FUSED": Row(False, lambda t: [bool(group["fused"]) for group in t.optimizer.param_groups]),
    "WEIGHT_DECAY": Row(0.003, lambda t: [group_of(t, "cls_score.weight")["weight_decay"]]),
    "WEIGHT_DECAY_NORM": Row(0.004, lambda t: [group_of(t, "cls_tower.0.norm.weight")["weight_decay"]]),
    "BIAS_LR_FACTOR": Row(1.9, lambda t: [group_of(t, "cls_score.bias")["initial_lr"] / t.cfg.SOLVER.BASE_LR]),
    "BIAS_LR_FACTOR_OF_NORMS": Row(
        False,
        lambda t: [group_of(t, "cls_tower.0.norm.bias")["initial_lr"] != pytest.approx(t.cfg.SOLVER.BASE_LR)],
        {"BIAS_LR_FACTOR": 1.9},
    ),
    "GAMMA": Row(0.3, lambda t: [learning_rates(t)[7]], LONG | {"STEPS": (6,)}),
    "STEPS": Row((5,), lambda t: [(learning_rates(t).index(pytest.approx(0.1)),)], LONG),
    "MAX_ITER": Row(11, lambda t: [t.max_iter]),
    "WARMUP_FACTOR": Row(0.2, lambda t: [learning_rates(t)[0]], LONG | {"WARMUP_ITERS": 4}),
    "WARMUP_ITERS": Row(4, lambda t: [learning_rates(t).index(pytest.approx(1.0))], LONG | {"WARMUP_FACTOR": 0.1}),
    "IMS_PER_BATCH": Row(2, lambda t: [len(next(iter(t.data_loader)))]),
    "ACCUMULATE": Row(2, lambda t: [t.training_step._parts, 4 // len(next(iter(t.data_loader)))]),
    "REFERENCE_BATCH_SIZE": Row(8, lambda t: [4 * 0.01 / t.cfg.SOLVER.BASE_LR]),
    "CHECKPOINT_PERIOD": Row(5, lambda t: [hook_named(t, "PeriodicCheckpoint")._period]),
    "CHECKPOINT_KEEP": Row(2, lambda t: [t.checkpoints._keep]),
    "COMPILE": Row(True, lambda t: [t.model.compiled is not None and t.model.compiled.training]),
    "EMA.ENABLED": Row(True, lambda t: [t.ema is not None]),
    "EMA.DECAY": Row(0.83, lambda t: [t.ema._decay], {"EMA.ENABLED": True}),
    "AMP.ENABLED": Row(True, lambda t: [t.training_step._amp_dtype is not None, t.training_step.grad_scaler.is_enabled()]),
    "CLIP_GRADIENTS.ENABLED": Row(True, lambda t: [t.training_step._clip is not None]),
    "CLIP_GRADIENTS.CLIP_VALUE": Row(5.0, lambda t: [float(clipped(t).norm())], CLIP | {"CLIP_GRADIENTS.CLIP_TYPE": "norm"}),
    "CLIP_GRADIENTS.NORM_TYPE": Row(1.0, lambda t: [float(clipped(t).norm(1))], CLIP | {"CLIP_GRADIENTS.CLIP_TYPE": "full_model"}),
    "NUM_DECAYS": Row(2, lambda t: [len({round(rate, 6) for rate in learning_rates(t)}) - 1], STEPPED),
    # the decay at iteration 6 of 20 then comes later, by the length of the warm-up
    "RESCALE_INTERVAL": Row(True, lambda t: [learning_rates(t)[7] == pytest.approx(1.0)], LONG | {"STEPS": (6,), "WARMUP_ITERS": 4}),
}
#: refused wherever it is set, see tests/engine/test_batch_scaling.py
REFUSED = {"REFERENCE_WORLD_SIZE"}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return register_toy_data(make_toy_data(tmp_path_factory.mktemp("toy")), "toy_values")


@pytest.mark.parametrize("key", SOLVER)
def test_solver(toy: str, key: str, tmp_path: Any) -> None:
    row = SOLVER[key]
    trainer = Trainer(with_values(toy_cfg(toy, tmp_path), "SOLVER", {**row.given, key: row.value}))
    assert_read(row, row.read(trainer))


def test_no_number_of_the_solver_is_left_out() -> None:
    assert set(numeric_keys(get_cfg().SOLVER)) == set(SOLVER) | REFUSED


TTA = {
    "MIN_SIZES": Row((33, 44), lambda d: [tuple(mapper.min_sizes[0] for mapper in d._mappers)]),
    "MAX_SIZE": Row(77, lambda d: [mapper.max_size for mapper in d._mappers], {"MIN_SIZES": (33, 44)}),
    "FLIP": Row(False, lambda d: [mapper.flip for mapper in d._mappers]),
    "MERGE_THRESH": Row(0.33, lambda d: [d.merge_rule.threshold]),
    "SOFT_VOTE_MIN_SCORE": Row(0.22, lambda d: [d.merge_rule.min_score], {"MERGE": "soft_vote"}),
    "MAX_DETECTIONS": Row(23, lambda d: [d.max_detections], {"TEST.DETECTIONS_PER_IMAGE": 17}),
    "TEST.DETECTIONS_PER_IMAGE": Row(17, lambda d: [d.max_detections]),
}


@pytest.mark.parametrize("key", TTA)
def test_multi_scale_testing(key: str, toy: str) -> None:
    row = TTA[key]
    cfg = with_values(tiny_cfg(), "TEST.AUG", {**row.given, key: row.value})
    assert_read(row, row.read(build_multi_scale_detector(cfg, build_model(cfg), toy)))


@pytest.mark.parametrize("merge", ["nms", "vote", "soft_vote"])
def test_every_way_of_merging_has_its_threshold(merge: str, toy: str) -> None:
    cfg = with_values(tiny_cfg(), "TEST.AUG", {"MERGE": merge, "MERGE_THRESH": 0.33})
    way = build_multi_scale_detector(cfg, build_model(cfg), toy).merge_rule
    assert way.threshold == 0.33 and isinstance(way, SoftVoting) == (merge == "soft_vote")


def test_no_number_of_multi_scale_testing_is_left_out() -> None:
    assert set(numeric_keys(get_cfg().TEST.AUG)) == set(TTA) - WHOLE | {"ENABLED"}  # which tests/engine/test_evaluate.py sets
