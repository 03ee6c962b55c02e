"""Models by name: table, configs, weights that are fetched, checked and converted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

import detkit
from detkit import model_zoo
from detkit.checkpoint import CheckpointError, load_weights
from detkit.engine import Trainer
from detkit.model_zoo import ZooEntry, ZooError

from .serving import ROW, small_weights, zoo_with

IMAGE = np.zeros((64, 80, 3), np.uint8)


@pytest.fixture
def row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ZooEntry]:
    content = {"state_dict": {f"module.{key}": value for key, value in small_weights().items()}, "meta": {"epoch": 12}}
    with zoo_with(tmp_path, monkeypatch, content) as row:
        yield row


def small_config() -> CfgNode:
    cfg = model_zoo.get_config(ROW.name)
    cfg.INPUT.MIN_SIZE_TEST = 64
    return cfg


#: every way to predict with the weights that a config names
WAYS: dict[str, Callable[[CfgNode], Any]] = {
    "DefaultPredictor": lambda cfg: DefaultPredictor(cfg)(IMAGE)["instances"],
    "Predictor": lambda cfg: detkit.Predictor(cfg)(IMAGE),
    "evaluation": lambda cfg: load_weights(Trainer.build_model(cfg), cfg.MODEL.WEIGHTS, strict=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_predicting_takes_a_name(row: ZooEntry, way: str) -> None:
    WAYS[way](small_config())


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_predicting_refuses_another_config(row: ZooEntry, way: str) -> None:
    cfg = small_config()
    cfg.MODEL.FCOS.PLUS_ONE = True
    with pytest.raises(CheckpointError, match=r"'fcos_small' .* does not belong.*MODEL\.FCOS\.PLUS_ONE is True and has to be"):
        WAYS[way](cfg)


def test_what_lies_in_the_cache_is_safe_and_of_our_names(row: ZooEntry, tmp_path: Path) -> None:
    model = model_zoo.get(row.name)
    content = torch.load(tmp_path / "cache" / "detkit" / "zoo" / "fcos_small-1.pth", weights_only=True)
    assert content["model"].keys() - model.state_dict().keys() == {"detkit.zoo_name"}
    assert all(isinstance(value, torch.Tensor) for value in content["model"].values())
    torch.testing.assert_close(dict(model.state_dict()), small_weights() | dict(model.state_dict()))


def test_file_with_our_names_is_fetched_once(row: ZooEntry, tmp_path: Path) -> None:
    model_zoo.get(row.name)
    (tmp_path / "server" / "small.pth").unlink()
    model_zoo.get(row.name)


def test_wrong_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zoo_with(tmp_path, monkeypatch, {"model": small_weights()}, sha256="0" * 64) as row, pytest.raises(CheckpointError, match="0000"):
        model_zoo.get(row.name)
    assert not list((tmp_path / "cache").rglob("fcos_small*"))


def test_file_that_fits_in_part_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = small_weights()
    del weights["head.cls_score.weight"]
    with (
        zoo_with(tmp_path, monkeypatch, {"model": weights}) as row,
        pytest.raises(CheckpointError, match=r"does not fit quick/fcos_mobilenetv2.yaml(.|\n)*head\.cls_score\.weight"),
    ):
        model_zoo.get(row.name)


def test_unknown_names_and_names_without_address() -> None:
    with pytest.raises(ZooError, match="Did you mean .*fcos_R_50_FPN_1x_mmdet"):
        model_zoo.get_config("fcos_R_50_FPN_1x_mmdetection")
    with pytest.raises(ZooError, match=re.escape("https://drive.google.com") + r".*tools/convert\.py FILE --name atss_R_50_FPN_1x"):
        model_zoo.get_checkpoint_url("atss_R_50_FPN_1x")
    with pytest.raises(CheckpointError, match=r"tools/convert\.py FILE --name atss_R_50_FPN_1x"):
        DefaultPredictor(model_zoo.get_config("atss_R_50_FPN_1x"))


def test_config_by_name() -> None:
    assert model_zoo.get_config_file("fcos_R_50_FPN_1x_mmdet") == detkit.get_config_file("fcos/fcos_R_50_FPN_1x_mmdet.yaml")
    assert model_zoo.get_config("fcos_R_50_FPN_1x_mmdet").MODEL.WEIGHTS == "detkit://fcos_R_50_FPN_1x_mmdet"
    assert model_zoo.get_config("fcos_R_50_FPN_1x_mmdet", trained=False).MODEL.WEIGHTS.startswith("detectron2://ImageNetPretrained")
