"""Compiled parts give what the model gives, in one graph each for all sizes, in trainings, evaluations and predictions."""

from __future__ import annotations

import copy
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.testing import assert_close

from detkit.assigners import NonFiniteCostError
from detkit.config import ConfigError
from detkit.distributed import data_parallel
from detkit.engine import Trainer, compile, prepare_for_inference, prepare_for_training
from detkit.engine.launch import launch
from detkit.layers import CompiledParts, InParts
from tests.export.test_program import CONFIGS
from tests.toys.datasets import make_toy_data, register_toy_data, toy_cfg
from tests.toys.detectors import random_inputs, tiny_cfg, tiny_sparse_cfg

#: image sizes and numbers of objects, none twice but for 1 and 2, which are padded alike
BATCHES = [
    *zip(
        [(96, 128), (64, 96), (128, 160), (160, 96), (224, 192), (100, 130), (96, 96), (200, 330), (256, 256), (130, 70)],
        [3, 0, 1, 5, 2, 8, 4, 13, 9, 6],
        strict=True,
    )
]


def _retinanet() -> Any:
    cfg = CONFIGS["nine anchors"]()
    cfg.MODEL.ATSS.ASSIGNER = "IoUAssigner"
    return cfg


def _everywhere() -> Any:
    cfg = CONFIGS["FCOS"]()
    cfg.MODEL.ASSIGNERS.FCOS.CENTER_RADIUS = 0.0
    return cfg


CONFIGS = CONFIGS | {"RetinaNet": _retinanet, "FCOS, no center sampling": _everywhere}
#: graphs of a training step: the network and the losses; candidates that are listed have a second graph for batches without any
GRAPHS = {name: 2 + name.startswith(("DW", "TOOD")) for name in CONFIGS if not name.startswith("LSNet")}
METHODS = pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "FCOS" else pytest.mark.slow) for name in GRAPHS])


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """What was compiled and counted before."""
    compile._why_not("eager", "cpu")
    torch.compiler.reset()
    counters.clear()


def step(model: Any, size: tuple[int, int], num_boxes: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses and gradients."""
    model.zero_grad()
    losses = model(random_inputs(size=size, num_boxes=num_boxes, seed=num_boxes))
    sum(losses.values()).backward()
    return losses, {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


@METHODS
def test_a_step_is_two_graphs_for_all_sizes_of_images_and_numbers_of_objects(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(CONFIGS[name]()).train()
    parts = CompiledParts(backend="eager")
    for size, num_boxes in BATCHES:
        model.compiled = None
        expected = step(model, size, num_boxes)
        model.compiled = parts
        assert_close(step(model, size, num_boxes), expected, rtol=1e-4, atol=1e-6)
    assert not parts.failed and not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == GRAPHS[name]


@pytest.mark.parametrize("name", [pytest.param("FCOS", marks=pytest.mark.slow), "Sparse R-CNN"])
def test_copies_detect_by_one_graph_with_their_own_weights(name: str) -> None:
    torch.manual_seed(0)
    cfg = CONFIGS[name]()
    cfg.MODEL.COMPILE, cfg.MODEL.COMPILE_BACKEND = True, "eager"
    model = build_model(cfg)
    for _ in range(2):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.01 * torch.randn_like(p))
        detector = prepare_for_inference(cfg, model)
        assert detector.compiled is not None and model.compiled is None
        for size, num_boxes in BATCHES[:3]:
            data = random_inputs(size=size, seed=num_boxes)
            with torch.no_grad():
                expected, actual = [each.eval()(data) for each in (model, detector)]
            for a, b in zip(actual, expected, strict=True):
                assert_close(a["instances"].scores, b["instances"].scores)
                assert_close(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor, rtol=1e-4, atol=1e-3)
        assert counters["stats"]["unique_graphs"] == 1 and not detector.compiled.failed
        model.train()


@pytest.mark.slow
def test_compiled_sparse_rcnn_with_one_to_many_matching_and_denoising() -> None:
    torch.manual_seed(0)
    model = build_model(tiny_sparse_cfg("MATCHES_PER_OBJECT", [4], "DENOISING.COPIES", 2)).train()
    parts = CompiledParts(backend="eager")
    for size, num_boxes in [batch for batch in BATCHES if batch[1] >= 2][:4]:  # padded alike, so that the noise is equal
        found = []
        for model.compiled in (None, parts):
            torch.manual_seed(1)  # for the same noise
            found.append(step(model, size, num_boxes))
        assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert not parts.failed and not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 3


def test_compiled_sparse_rcnn_names_the_images_whose_predictions_are_not_finite() -> None:
    model = build_model(tiny_sparse_cfg()).train()
    model.compiled = CompiledParts(backend="eager")
    with torch.no_grad():
        model.head.stages[1].cls_score.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteCostError, match=r"for the images \? \(no file name; stage1\)"):
        model(random_inputs())
    assert not model.compiled.failed and torch.is_grad_enabled()


def test_what_cannot_be_compiled_runs_as_it_is_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(InParts):
        def part(self, x: Tensor) -> Tensor:
            return x * 2 if float(x.sum()) > 0 else x  # a value is read

    odd = Odd()
    odd.compiled = CompiledParts(backend="eager")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert odd.run_part("part", torch.ones(2, requires_grad=True)).tolist() == [2, 2]
    assert len(caplog.messages) == 1 and "Odd.part cannot be compiled and runs as it is" in caplog.messages[0]


def test_without_a_compiler_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*args: Any, **options: Any) -> Any:
        raise RuntimeError("No working C++ compiler found in ['g++']\nand much more")

    compile._why_not.cache_clear()
    monkeypatch.setattr(torch, "compile", no_compiler)
    cfg = tiny_cfg()
    cfg.SOLVER.COMPILE = True
    with pytest.raises(ConfigError, match=r"SOLVER.COMPILE is True, .* No working C\+\+ compiler found in \['g\+\+'\]\. Install") as error:
        prepare_for_training(cfg, build_model(cfg))
    assert "\n" not in str(error.value)
    compile._why_not.cache_clear()


def test_models_without_parts_are_refused() -> None:
    cfg = tiny_cfg()
    cfg.MODEL.COMPILE = True
    with pytest.raises(ConfigError, match="MODEL.COMPILE.*Sequential does not compute in parts"):
        prepare_for_inference(cfg, nn.Sequential(nn.Conv2d(1, 1, 1)))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return register_toy_data(make_toy_data(tmp_path_factory.mktemp("toy"), equal_sizes=False), "toy_compiled")


def trained(toy: str, folder: Path, compiled: bool, **keys: Any) -> Trainer:
    cfg = toy_cfg(toy, folder, "FCOS")
    cfg.SOLVER.COMPILE = cfg.MODEL.COMPILE = compiled
    cfg.MODEL.COMPILE_BACKEND = "eager"
    cfg.SOLVER.EMA.ENABLED, cfg.SOLVER.ACCUMULATE, cfg.TEST.EVAL_PERIOD = True, 2, 3
    cfg.merge_from_list([part for item in keys.items() for part in item])
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    return trainer


@pytest.mark.slow
def test_a_training_is_the_same_and_its_checkpoints_are_those_of_the_model(toy: str, tmp_path: Path) -> None:
    plain, compiled = trained(toy, tmp_path / "plain", False), trained(toy, tmp_path / "compiled", True)
    assert_close(compiled.state_dict()["trained_model"], plain.state_dict()["trained_model"], rtol=1e-4, atol=1e-5)
    assert_close(compiled.state_dict()["model"], plain.state_dict()["model"], rtol=1e-4, atol=1e-5)
    assert list(compiled.state_dict()["model"]) == list(plain.state_dict()["model"])
    assert not compiled.model.compiled.failed
    for last in (tmp_path / "compiled").glob("model_final.pth"):
        last.unlink()
    (tmp_path / "compiled" / "last_checkpoint").write_text("model_0000002.pth")
    resumed = trained(toy, tmp_path / "compiled", True)
    assert resumed.start_iter == 3
    assert_close(resumed.state_dict()["model"], plain.state_dict()["model"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_training_in_mixed_precision(toy: str, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": "bfloat16"}
    plain, compiled = trained(toy, tmp_path / "plain", False, **keys), trained(toy, tmp_path / "compiled", True, **keys)
    assert_close(compiled.state_dict()["model"], plain.state_dict()["model"], rtol=1e-3, atol=1e-3)
    assert not compiled.model.compiled.failed


def _gradients_of_worker(folder: str, backend: str) -> None:
    torch.manual_seed(0)
    model = build_model(tiny_cfg("FCOS")).train()
    parallel = data_parallel(model)
    found = []
    for parts in (None, CompiledParts(backend=backend)):
        model.compiled = parts
        parallel.zero_grad()
        rank = torch.distributed.get_rank()
        losses = parallel(random_inputs(num_boxes=2 + 3 * rank, seed=rank))
        sum(losses.values()).backward()
        found.append(([loss.detach() for loss in losses.values()], [p.grad.clone() for p in model.parameters()]))
    torch.save((found, dict(parts.failed)), Path(folder) / f"{rank}.pt")


@pytest.mark.slow
def test_two_workers(tmp_path: Path) -> None:
    launch(_gradients_of_worker, 2, dist_url=f"file://{tmp_path / 'meeting'}", device="cpu", args=(str(tmp_path), "aot_eager"))
    for rank in range(2):
        (plain, compiled), failed = torch.load(tmp_path / f"{rank}.pt")
        assert not failed
        assert_close(compiled, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FCOS", "ATSS", "DW", "Sparse R-CNN"])
def test_machine_code_trains_as_the_model(name: str) -> None:
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("the inductor needs a C++ compiler, and there is none")
    torch.manual_seed(0)
    plain = build_model(CONFIGS[name]()).train()
    compiled = copy.deepcopy(plain)
    compiled.compiled = CompiledParts()
    for model in (plain, compiled):
        model.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for size, num_boxes in BATCHES[:4]:
        expected, actual = (step(model, size, num_boxes) for model in (plain, compiled))
        assert_close(actual, expected, rtol=1e-3, atol=1e-4)
        for model in (plain, compiled):
            model.optimizer.step()
    assert not compiled.compiled.failed
