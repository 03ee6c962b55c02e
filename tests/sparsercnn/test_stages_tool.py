"""Figure 5 and the AP of each stage, by the tool's command line."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from PIL import Image

from sparsercnn.pictures import side_by_side, stage_pictures
from tests.toys.datasets import make_toy_data, register_toy_data
from tests.toys.detectors import build_tiny, tiny_sparse_cfg

PATH = Path(__file__).parents[2] / "tools" / "sparsercnn_stages.py"


def run_tool(*args: str) -> None:
    spec = importlib.util.spec_from_file_location("stages_tool", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(args)


@pytest.fixture
def trained(tmp_path: Path) -> tuple[str, ...]:
    """Config file and overrides of a model with weights, on toy data."""
    name = register_toy_data(make_toy_data(tmp_path / "data", num_images=3), "toy_stages")
    return save_model(tmp_path, "DATASETS.TEST", (name,))


@pytest.fixture
def trained_on_crowd(tmp_path: Path) -> tuple[str, ...]:
    """The same on an image with a person, named by the files of CrowdHuman."""
    Image.new("RGB", (96, 64), (80, 90, 100)).save(tmp_path / "a,1.jpg")
    person = {"tag": "person", "fbox": [10, 5, 30, 40], "extra": {}}
    (tmp_path / "crowd.odgt").write_text(json.dumps({"ID": "a,1", "gtboxes": [person]}))
    files = ("DATASETS.VAL_JSON", str(tmp_path / "crowd.odgt"), "DATASETS.VAL_IMAGES", str(tmp_path), "DATASETS.NAME", "crowd_stages")
    return save_model(tmp_path, "MODEL.SPARSE_RCNN.NUM_CLASSES", 1) + files


def save_model(folder: Path, *changes: Any) -> tuple[str, ...]:
    """Writes a config with ``changes`` and weights; gives the command line that names them."""
    cfg = tiny_sparse_cfg()
    cfg.INPUT.MIN_SIZE_TEST, cfg.DATALOADER.NUM_WORKERS = 64, 0
    cfg.merge_from_list(list(changes))
    (folder / "config.yaml").write_text(cfg.dump())
    torch.save(build_model(cfg).state_dict(), folder / "model.pth")
    return ("--config-file", str(folder / "config.yaml"), "MODEL.WEIGHTS", str(folder / "model.pth"), "OUTPUT_DIR", str(folder / "out"))


def test_pictures_of_proposals_and_stages() -> None:
    model = build_tiny("NUM_STAGES", 3, "PROPOSAL_INIT", "grid")
    model.head.stages[1].cls_score.bias.data[2] = 9.0  # only this stage is sure of anything
    image = np.zeros((96, 128, 3), np.uint8)
    pictures = stage_pictures(model, image, resize=T.ResizeShortestEdge(64, 128))
    assert len(pictures) == 4 and len({picture.shape for picture in pictures}) == 1
    drawn = [picture.max() > 100 for picture in pictures]
    assert drawn == [True, False, True, False]
    saturated = pictures[0].max(-1).astype(int) - pictures[0].min(-1)
    assert saturated.max() > 100, "proposals that a later picture shows are colored on the first"
    assert side_by_side(pictures).shape[1] == 4 * pictures[0].shape[1] + 3 * 8


def test_proposals_that_nothing_comes_of_are_white() -> None:
    pictures = stage_pictures(build_tiny("PROPOSAL_INIT", "grid"), np.zeros((96, 128, 3), np.uint8), resize=T.ResizeShortestEdge(64, 128))
    assert pictures[0].max() > 200 and (pictures[0].max(-1).astype(int) - pictures[0].min(-1)).max() < 10


def test_picture_command(trained: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((50, 70, 3), 90, np.uint8))
    run_tool("picture", "--image", str(tmp_path / "photo.png"), "--output", str(tmp_path / "stages.png"), *trained)
    assert capsys.readouterr().out.strip().endswith("stages.png")
    assert Image.open(tmp_path / "stages.png").width > 3 * 500


def test_ap_command(trained: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    run_tool("ap", *trained)
    assert metrics_of_stages(capsys.readouterr().out) == {"stage 1": ["AP", "AP50", "AP75"], "stage 2": ["AP", "AP50", "AP75"]}


def test_ap_command_on_a_crowd(trained_on_crowd: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    run_tool("ap", *trained_on_crowd)
    metrics = ["AP", "mMR", "Recall", "JI"]
    assert metrics_of_stages(capsys.readouterr().out) == {"stage 1": metrics, "stage 2": metrics}


def metrics_of_stages(printed: str) -> dict[str, list[str]]:
    """The names of the metrics behind each stage, every one of which has a value."""
    found = {}
    for line in printed.splitlines():
        if line.startswith("stage"):
            stage, figures = line.split(", ")
            words = figures.split(": ")[1].split()
            assert all(np.isfinite(float(value)) for value in words[1::2])
            found[stage] = words[0::2]
    return found


def test_bad_input_is_one_line(trained: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match=r"error: .*MODEL\.WEIGHTS"):
        run_tool("ap", *trained[:2])
