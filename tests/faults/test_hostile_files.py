"""No file that a command reads runs code: one hostile file per reader, and a trace that it would leave."""

from __future__ import annotations

import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from PIL import Image
from safetensors.torch import save_file

import detkit
from detkit.checkpoint import CheckpointError
from detkit.config import ConfigError, get_cfg
from detkit.data import read_image
from tests.faults.endings import assert_ends_well
from tests.toys.detectors import tiny_cfg
from tests.toys.own_data import OwnData


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.trace,)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """What must not be there at the end of a test."""
    return tmp_path / "trace"


def _pickle(path: Path, trace: Path) -> None:
    path.write_bytes(pickle.dumps({"model": {"a": np.zeros(1)}, "__author__": Hostile(trace)}))


def _torch(path: Path, trace: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "meta": Hostile(trace)}, path)


def _yaml(path: Path, trace: Path) -> None:
    path.write_text(f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{trace}']\n")


WEIGHTS: dict[str, Callable[[Path, Path], None]] = {
    "w.pkl": _pickle,
    "w.pth": _torch,
    "archive.pkl": _torch,
    "pickle.pth": _pickle,
    "w.pyth": _torch,
    "w.safetensors": _pickle,
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("flags", [(), ("--eval-only",)], ids=["train", "evaluate"])
def test_weights(own_data: OwnData, tmp_path, trace, name, flags):
    WEIGHTS[name](tmp_path / name, trace)
    assert_ends_well(own_data.run("MODEL.WEIGHTS", str(tmp_path / name), flags=flags), name)
    assert not trace.exists()


def test_weights_of_the_backbone(own_data: OwnData, tmp_path, trace):
    _pickle(tmp_path / "w.pkl", trace)
    words = ("MODEL.BACKBONE.NAME", "build_torchvision_backbone", "MODEL.BACKBONE.ARCH", "mobilenet_v3_small")
    outcome = own_data.run(*words, "MODEL.BACKBONE.WEIGHTS", str(tmp_path / "w.pkl"))
    assert outcome.code and "w.pkl" in outcome.console
    assert not trace.exists()


def test_weights_from_the_network(own_data: OwnData, server, tmp_path, trace):
    _pickle(tmp_path / "w.pkl", trace)
    server.files["/w.pkl"] = (tmp_path / "w.pkl").read_bytes()
    assert_ends_well(own_data.run("MODEL.WEIGHTS", server.url("/w.pkl")), "w.pkl", "could run code")
    assert not trace.exists()


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("predictor", [DefaultPredictor, detkit.Predictor])
def test_weights_in_predictors(tmp_path, trace, name, predictor):
    """Detectron2's as well, whose checkpointer unpickles."""
    WEIGHTS[name](tmp_path / name, trace)
    cfg = tiny_cfg("ATSS")
    cfg.MODEL.WEIGHTS = str(tmp_path / name)
    with pytest.raises(CheckpointError, match=name):
        predictor(cfg)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["w.pkl", "archive.pkl"])
def test_weights_of_detectron2s_own_models(tmp_path, trace, name):
    WEIGHTS[name](tmp_path / name, trace)
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "ProposalNetwork", "MODEL.BACKBONE.NAME", "TinyPyramid", "MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(["MODEL.RPN.IN_FEATURES", "['p3']", "MODEL.WEIGHTS", str(tmp_path / name)])
    with pytest.raises((CheckpointError, pickle.UnpicklingError)):
        DefaultPredictor(cfg)
    assert not trace.exists()


@pytest.mark.parametrize("form", ["w.pkl", "mmdetection.pth", "w.safetensors", "frameworks.pth"])
def test_detectron2s_predictor_takes_every_published_form(tmp_path, form):
    cfg = tiny_cfg("ATSS")
    torch.manual_seed(1)
    state = build_model(cfg).state_dict()
    path = tmp_path / form
    if form == "w.pkl":
        path.write_bytes(pickle.dumps({"model": {key: value.numpy() for key, value in state.items()}, "__author__": "someone"}))
    elif form == "w.safetensors":
        save_file(state, path)
    else:
        meta = {"epoch": 12, "classes": ("a",), "best": np.float64(1)} | ({"where": Path("a")} if form == "frameworks.pth" else {})
        torch.save({"meta": meta, "state_dict": state}, path)
    cfg.MODEL.WEIGHTS = str(path)
    loaded = DefaultPredictor(cfg).model.state_dict()
    torch.testing.assert_close(loaded, state)


@pytest.mark.parametrize("as_base", [False, True])
def test_configs(own_data: OwnData, trace, as_base):
    hostile = own_data.root / "hostile.yaml"
    _yaml(hostile, trace)
    if as_base:
        own_data.config_file.write_text("_BASE_: hostile.yaml\n")
    else:
        own_data.config_file = hostile
    assert_ends_well(own_data.run(), "hostile.yaml, line 1", "run code and are never read")
    assert not trace.exists()


def test_values_of_overrides(own_data: OwnData, trace):
    assert_ends_well(own_data.run("SOLVER.STEPS", f"(__import__('os').mkdir({str(trace)!r}),)"), "SOLVER.STEPS")
    assert not trace.exists()


@pytest.mark.parametrize("key", ["TRAIN_JSON", "VAL_JSON"])
def test_annotations(own_data: OwnData, tmp_path, trace, key):
    path = tmp_path / "hostile.json"
    _pickle(path, trace)
    assert_ends_well(own_data.run(f"DATASETS.{key}", str(path)), "hostile.json")
    assert not trace.exists()


PROPOSALS = ("MODEL.LOAD_PROPOSALS", "True", "DATASETS.PROPOSAL_FILES_TRAIN", "('p.pkl',)", "DATASETS.PROPOSAL_FILES_TEST", "('p.pkl',)")


@pytest.mark.parametrize("flags", [(), ("--eval-only",)], ids=["train", "evaluate"])
def test_proposals_are_refused(own_data: OwnData, tmp_path, trace, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    _pickle(Path("p.pkl"), trace)
    assert_ends_well(own_data.run(*PROPOSALS, flags=flags), "PROPOSAL|LOAD_PROPOSALS")
    assert not trace.exists()


def test_proposals_in_detectron2s_own_loader(own_data: OwnData, tmp_path, trace):
    own_data.write()
    detkit.data.register_coco_folder("hostile_proposals", own_data.json_file, own_data.root)
    cfg = tiny_cfg("ATSS")
    cfg.DATASETS.TEST, cfg.DATASETS.PROPOSAL_FILES_TEST, cfg.MODEL.LOAD_PROPOSALS = ("hostile_proposals",), (str(tmp_path / "p.pkl"),), True
    _pickle(tmp_path / "p.pkl", trace)
    with pytest.raises(CheckpointError, match=r"p\.pkl .*could run code"):
        build_detection_test_loader(cfg, "hostile_proposals")
    assert not trace.exists()
    proposals = {"ids": [1, 2, 3, 4], "boxes": [np.zeros((1, 4))] * 4, "objectness_logits": [np.zeros(1)] * 4, "bbox_mode": 0}
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(proposals))
    assert len(build_detection_test_loader(cfg, "hostile_proposals")) == 4


@pytest.mark.parametrize("name", ["model_final.pth", "last_checkpoint", "config.yaml"])
def test_folders_of_runs(tmp_path, trace, name):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(f"OUTPUT_DIR: '{folder}'\n")
    if name == "config.yaml":
        _yaml(folder / name, trace)
    else:
        _torch(folder / "model_final.pth", trace)
    if name == "last_checkpoint":
        (folder / name).write_text("../outside.pth")
        _torch(tmp_path / "outside.pth", trace)
    with pytest.raises((CheckpointError, ConfigError, OSError), match=r"model_final\.pth|config\.yaml|outside") as error:
        detkit.Predictor.from_run(folder)
    assert "\n" not in str(error.value)
    assert not trace.exists()


def test_resumed_runs(own_data: OwnData, trace):
    output = own_data.root / "out"
    output.mkdir()
    _torch(output / "model_0000000.pth", trace)
    assert_ends_well(own_data.run(flags=("--resume",), output=output), "model_0000000.pth")
    assert not trace.exists()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def ghostscript(tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of that name that leaves a trace."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nmkdir -p '{trace}'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None, raising=False)


@pytest.mark.usefixtures("ghostscript")
def test_images_that_are_programs(own_data: OwnData, tmp_path, trace):
    own_data.image(1).write_bytes(POSTSCRIPT)
    with pytest.raises(Exception, match=".*"), Image.open(own_data.image(1)) as image:
        image.load()  # the trap works
    assert trace.exists()
    trace.rmdir()
    with pytest.raises(ValueError, match="EPS, which is not run here"):
        read_image(own_data.image(1), "RGB")
    assert_ends_well(own_data.run(), r"1\.png", "EPS, which is not run here", most_lines=4)
    assert not trace.exists()
