"""Every config that we ship builds, has the weights that it should, trains a step, says where it comes from and stands in a card."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model

from detkit.config import check_config
from tests.parity.cases import FULL_FOLDER

from .architectures import CONFIGS, COUNTS_FILE, ROOT, config_name, count_weights, read, recorded_counts, shrunk, train_a_step

EACH_CONFIG = pytest.mark.parametrize("path", CONFIGS, ids=config_name)
#: released checkpoints of mmdetection whose architecture one of our configs has
PUBLISHED = {
    "tood_r50_fpn_anchor-based_1x_coco": "dw/tood_R_50_FPN_1x_mmdet_anchor",
    "tood_x101-64x4d_fpn_ms-2x_coco": "dw/tood_X_101_64x4d_FPN_2x_mmdet",
    "tood_r101_fpn_ms-2x_coco": "dw/tood_R_101_FPN_2x_mmdet",
    "tood_r101-dconv-c3-c5_fpn_ms-2x_coco": "dw/tood_R_101_DCN_FPN_2x_mmdet",
    "fcos_r50-caffe_fpn_gn-head_1x_coco": "fcos/fcos_R_50_FPN_1x_mmdet",
    "fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco": "fcos/fcos_R_50_FPN_1x_mmdet_improved",
    "fcos_r50-dcn-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco": "fcos/fcos_R_50_DCN_FPN_1x_mmdet_improved",
    "fcos_r101-caffe_fpn_gn-head-1x_coco": "fcos/fcos_R_101_FPN_1x_mmdet",
    "fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco": "fcos/fcos_X_101_64x4d_FPN_2x_mmdet",
    "atss_r50_fpn_1x_coco": "atss/atss_R_50_FPN_1x_mmdet",
    "atss_r101_fpn_1x_coco": "atss/atss_R_101_FPN_1x_mmdet",
}


@EACH_CONFIG
def test_config_trains_a_step(path: Path, tmp_path: Path) -> None:
    """With narrow layers, so that it takes little time."""
    train_a_step(shrunk(read(path)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [names[0] for names in json.loads(COUNTS_FILE.read_text()).values()])
def test_every_network_trains_a_step_in_full_width(name: str, tmp_path: Path) -> None:
    """Of configs with equally many weights the first; what else they differ in, narrow layers have as well."""
    train_a_step(read(ROOT / "configs" / f"{name}.yaml"), tmp_path)


@EACH_CONFIG
def test_number_of_weights(path: Path) -> None:
    check_config(read(path))
    count, recorded = count_weights(read(path)), recorded_counts().get(config_name(path))
    assert recorded is not None, f"{config_name(path)} has {count} weights; record them: python -m tests.config.architectures"
    assert count == recorded


def test_no_number_is_recorded_for_nothing() -> None:
    assert set(recorded_counts()) <= {config_name(path) for path in CONFIGS}


@pytest.mark.parametrize(("checkpoint", "config"), PUBLISHED.items(), ids=PUBLISHED)
def test_recorded_numbers_are_those_of_published_weights(checkpoint: str, config: str) -> None:
    path = FULL_FOLDER / "mmdet_keys" / f"{checkpoint}.json"
    if not path.exists():
        pytest.skip(f"key lists are missing: {path.parent} (DETKIT_GOLDENS)")
    shapes = {key: shape for key, shape, *_ in json.loads(path.read_text())["state_dict"]}
    assert recorded_counts()[config] == sum(math.prod(shape) for key, shape in shapes.items() if not key.endswith("num_batches_tracked"))


def test_retinanet_has_as_many_weights_as_detectron2s() -> None:
    cfg = model_zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        weights = build_model(cfg).state_dict()
    numbers = sum(value.numel() for key, value in weights.items() if key.split(".")[0] in ("backbone", "head"))
    assert recorded_counts()["fcos/retinanet_R_50_FPN_1x"] == numbers


@EACH_CONFIG
def test_config_says_what_it_is(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert header, f"{path.name} starts without a word on source and results"
    method = path.parent.name if path.parent.name != "quick" else path.stem.split("_")[0].replace("rpn", "fcos")
    card = ROOT / "projects" / method / "README.md"
    assert f"`{path.stem}`" in card.read_text() or f"/{path.stem}`" in card.read_text(), f"{path.name} is missing in {card}"


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem.endswith("_shapes")], ids=config_name)
def test_quick_runs_enforce_their_result(path: Path) -> None:
    cfg = read(path)
    header = path.read_text()
    assert cfg.SEED >= 0
    assert cfg.TEST.EXPECTED_RESULTS or "not run" in header or "not measured" in header
    for task, metric, value, tolerance in cfg.TEST.EXPECTED_RESULTS:
        assert value > tolerance > 0 and f"{metric} {value}" in header and f"seed {cfg.SEED}" in header
        by_seed = measured_by_seed(header, f"{task} {metric}")
        if not by_seed:
            assert f"# Spread: not measured: seed {cfg.SEED} alone was run." in header
            continue
        assert by_seed.pop(cfg.SEED) == value, "the expected value is that of the seed that the file runs with"
        deviation = max(abs(other - value) for other in by_seed.values())
        assert deviation <= tolerance <= deviation + 3


def measured_by_seed(header: str, metric: str) -> dict[int, float]:
    """Values by seed of the line ``# Spread: bbox AP 37.1 (seed 0), 40.3 (seed 1).``"""
    line = next((line for line in header.splitlines() if line.startswith(f"# Spread: {metric} ")), "")
    return {int(seed): float(value) for value, seed in re.findall(r"([\d.]+) \(seed (\d+)\)", line)}
