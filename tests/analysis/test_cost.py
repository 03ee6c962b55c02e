"""What a detector costs, against sums by hand."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from detkit.analysis import count_cost, measure_latency, reported_speed
from detkit.config_files import config_names
from detkit.engine import Trainer
from detkit.layers import DeformConv2dPack
from tests.toys.detectors import tiny_cfg

_SPEC = importlib.util.spec_from_file_location("benchmark", Path(__file__).parents[2] / "tools" / "benchmark.py")
assert _SPEC and _SPEC.loader
benchmark = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(benchmark)


class OneLayer(nn.Module):
    """A model of Detectron2's form with one convolution."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: list[dict]) -> torch.Tensor:
        return self.layer(torch.stack([each["image"] for each in inputs])).relu()


def test_a_convolution() -> None:
    model = OneLayer(nn.Conv2d(3, 8, 3, padding=1, bias=False)).train()
    model.layer.weight.requires_grad_(False)
    cost = count_cost(model, (32, 64))
    assert cost.flops == 32 * 64 * 8 * 3 * 9 and cost.activations == 32 * 64 * 8
    assert (cost.parameters, cost.trained) == (8 * 3 * 9, 0)
    assert cost.by_part == {"layer": cost.flops} and not cost.not_counted and model.training


def test_a_deformable_convolution_counts_its_products_and_samples() -> None:
    cost = count_cost(OneLayer(DeformConv2dPack(3, 8, 3, padding=1)), (16, 16))
    products, offsets, samples = 256 * 8 * 27, 256 * 27 * 27, 4 * 256 * 3 * 9
    assert cost.flops == products + offsets + samples and cost.activations == 256 * (8 + 27)


@pytest.mark.parametrize("method", ["ATSS", "FCOS"])
def test_a_detector_is_counted_in_full(method: str) -> None:
    model = Trainer.build_model(tiny_cfg(method)).train()
    small, large = count_cost(model, (64, 64)), count_cost(model, (128, 64))
    assert large.flops == pytest.approx(2 * small.flops, rel=0.05)  # the coarsest levels round up
    assert small.by_part["backbone"] + small.by_part["head"] == pytest.approx(small.flops, rel=1e-3)
    assert not small.not_counted and model.training


def test_latency_is_of_the_runs_after_the_warm_up() -> None:
    model, calls = OneLayer(nn.Conv2d(3, 8, 3)), []
    found = measure_latency(model, (16, 16), batch=2, runs=5, warm_up=1, progress=lambda: calls.append(model.training))
    assert calls == [False] * 6 and model.training
    assert 0 < found.low <= found.median <= found.high and found.fps == pytest.approx(2 / found.median)


def test_reported_speeds_are_of_configs_that_there_are() -> None:
    known = {Path(name).stem for name in config_names()}
    speeds = {name: reported_speed(name) for name in known}
    assert sum(speed is not None for speed in speeds.values()) == 27
    assert reported_speed("sparsercnn/sparsercnn_R_50_FPN_100pro_3x.yaml").fps == 23


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(tiny_cfg("ATSS").dump())
    benchmark.main([str(config), "--size", "64x96", "--batch", "2", "--runs", "2", "--json", str(tmp_path / "speed.json")])
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("parameters", "multiply-adds", "activations", "batch 1 ", "batch 2 ", "no speed is reported"))
    record = json.loads((tmp_path / "speed.json").read_text())
    assert [each["batch"] for each in record["latency"]] == [1, 2] and record["cost"]["flops"] > 0 and record["hardware"]
    with pytest.raises(SystemExit, match="error: There is no model 'tinny'"):
        benchmark.main(["tinny"])
