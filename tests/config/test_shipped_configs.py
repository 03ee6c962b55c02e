"""Every config that we ship builds, trains a step, says where it comes from and stands in its method's card."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from detkit.config import get_cfg
from tests.tiny import random_inputs

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*/*.yaml") if not path.name.startswith("Base"))
#: one of each distinct architecture; the others differ from them in losses, assignment and depth
FAST = {"fcos_R_50_FPN_1x", "fcos_R_50_FPN_1x_c5", "atss_R_50_FPN_1x", "fcos_mobilenetv2", "atss_mobilenetv2"}


def parameters():
    return [pytest.param(path, id=path.stem, marks=() if path.stem in FAST else pytest.mark.slow) for path in CONFIGS]


def read(path: Path):
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    return cfg


@pytest.mark.parametrize("path", parameters())
def test_config_builds_and_trains_a_step(path):
    torch.manual_seed(0)
    cfg = read(path)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.MODEL.BACKBONE.WEIGHTS = "cpu", "", ""
    model = build_model(cfg).train()
    losses = model(random_inputs(1, size=(64, 96), num_boxes=2))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None and p.grad.isfinite().all() for p in trained)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_says_what_it_is(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert header, f"{path.name} starts without a word on source and results"
    method = "atss" if path.parent.name == "atss" else read(path).MODEL.META_ARCHITECTURE.lower()
    assert path.stem in (ROOT / "projects" / method / "README.md").read_text(), f"{path.name} is missing in the card of {method}"


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem.endswith("_shapes")], ids=lambda path: path.stem)
def test_quick_runs_enforce_their_result(path):
    cfg = read(path)
    ((task, metric, value, tolerance),) = cfg.TEST.EXPECTED_RESULTS
    assert (task, metric) == ("bbox", "AP") and value - tolerance >= 50 and cfg.SEED >= 0
    assert f"AP {value}" in path.read_text()
