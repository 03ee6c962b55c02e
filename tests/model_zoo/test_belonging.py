"""Published files that fit another config than theirs key by key are refused in every way of predicting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from torch import nn

import detkit
from detkit.checkpoint import CheckpointError, convert_file, load_weights, read_checkpoint
from detkit.config import get_cfg
from detkit.engine import Trainer
from detkit.model_zoo import find

from .key_lists import MissingGoldensError, key_list

IMAGE = np.zeros((64, 80, 3), np.uint8)
#: how the weights of a config come to predict
WAYS: dict[str, Callable[[CfgNode], Any]] = {
    "Predictor": lambda cfg: detkit.Predictor(cfg),
    "DefaultPredictor": lambda cfg: DefaultPredictor(cfg),
    "evaluation": lambda cfg: load_weights(Trainer.build_model(cfg), cfg.MODEL.WEIGHTS, strict=True),
    "loaded before evaluation mode": lambda cfg: _loaded(cfg).eval()([{"image": torch.zeros(3, 64, 80)}]),
}


def _loaded(cfg: CfgNode) -> nn.Module:
    model = Trainer.build_model(cfg).train()
    load_weights(model, cfg.MODEL.WEIGHTS)
    return model


def regenerated(row: str, path: Path, wrapper: str = "model") -> Path:
    """A small file with the keys of a row, every tensor one number."""
    try:
        shapes = key_list(find(row))
    except MissingGoldensError as error:
        pytest.skip(str(error))
    torch.save({wrapper: {key: torch.tensor(0.01).expand(shape) for key, shape in shapes.items()}}, path)
    return path


def config(name: str, weights: Path) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(detkit.get_config_file(name))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(weights), "INPUT.MIN_SIZE_TEST", "64"])
    return cfg


@pytest.mark.parametrize("way", WAYS)
def test_retinanet_of_detectron2_in_another_retinanet(way: str, tmp_path: Path) -> None:
    """A file of any name: told by its layout, in which nothing with such conventions was published."""
    weights = regenerated("retinanet_R_50_FPN_1x_detectron2", tmp_path / "mine.pth")
    with pytest.raises(CheckpointError, match=r"has the layout of Detectron2 RetinaNet.*MODEL\.ATSS\.(ANCHORS|BOX_CODER)"):
        WAYS[way](config("atss/retinanet_R_50_FPN_1x_mmdet.yaml", weights))


@pytest.mark.parametrize("way", ["Predictor", "evaluation", "loaded before evaluation mode"])
def test_paa_in_the_config_of_atss(way: str, tmp_path: Path) -> None:
    """Told by the name of the file: its keys and layout are those of ATSS."""
    weights = regenerated("atss_R_50_FPN_1x_mmdet", tmp_path / "paa_r50_fpn_1x_coco_20200821-936edec3.pth", "state_dict")
    with pytest.raises(CheckpointError, match=r"paa_r50_fpn_1x.*TEST\.SCORE is 'product' and has to be 'sqrt_product'"):
        WAYS[way](config("atss/atss_R_50_FPN_1x_mmdet.yaml", weights))


def test_conversion_does_not_hide_where_weights_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = regenerated("freeanchor_R_50_FPN_1x_mmdet", tmp_path / "in.pth", "state_dict")
    monkeypatch.setattr("detkit.checkpoint.convert.check_content", lambda *_: None)  # the file is regenerated
    convert_file(weights, tmp_path / "out.safetensors", name="freeanchor_R_50_FPN_1x_mmdet")
    with pytest.raises(CheckpointError, match=r"'freeanchor_R_50.*DELTA_WEIGHTS is \[1\.0, 1\.0, 1\.0, 1\.0\] and has to be"):
        detkit.Predictor(config("atss/retinanet_R_50_FPN_1x_mmdet.yaml", tmp_path / "out.safetensors"))
    detkit.Predictor(config("atss/freeanchor_R_50_FPN_1x_mmdet.yaml", tmp_path / "out.safetensors"))


def test_training_may_start_from_any_weights(tmp_path: Path) -> None:
    weights = regenerated("retinanet_R_50_FPN_1x_detectron2", tmp_path / "mine.pth")
    _loaded(config("atss/retinanet_R_50_FPN_1x_mmdet.yaml", weights))
    assert read_checkpoint(weights)["model"]
