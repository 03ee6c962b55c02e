"""From a trained run to detections with names."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.structures import Instances
from PIL import Image

import detkit
from detkit.checkpoint import CheckpointError, read_checkpoint
from detkit.config import ConfigError, flatten, get_cfg, method_node
from detkit.data import DataError
from detkit.engine import Trainer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def predictor(trained: Path) -> detkit.Predictor:
    return detkit.Predictor.from_run(trained / "out")


def same(found: Instances, expected: Instances) -> None:
    assert len(found) == len(expected) > 10
    for name in ("scores", "pred_classes"):
        torch.testing.assert_close(found.get(name), expected.get(name))
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)


def test_a_run_is_all_that_is_needed(predictor: detkit.Predictor, trained: Path, tmp_path: Path) -> None:
    """Trained on own data, predicted, drawn with names."""
    photo = trained / "data" / "train" / "1.jpg"
    instances = predictor(photo)
    assert predictor.class_names == ["ball", "cube"]
    assert set(instances.names) <= {"ball", "cube"} and len(instances.names) == len(instances) > 0
    assert instances.image_size == (48, 64)
    drawn = instances.draw(min_score=0.0)
    plain = instances.draw(photo, min_score=1.0)
    assert drawn.size == plain.size and np.abs(np.asarray(drawn, int) - np.asarray(plain)).mean() > 1
    drawn.save(tmp_path / "detections.jpg")


def test_it_predicts_what_detectron2s_predictor_does(predictor: detkit.Predictor, trained: Path) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(trained / "out" / "config.yaml")
    cfg.MODEL.WEIGHTS = str(trained / "out" / "model_final.pth")
    image = cv2.imread(str(trained / "data" / "train" / "2.jpg"))
    same(predictor(image), DefaultPredictor(cfg)(image)["instances"])


def test_it_follows_its_model(trained: Path) -> None:
    """What detects is made of the model, in part of the same tensors: it is of one moment, whatever is changed."""
    predictor, photo = detkit.Predictor.from_run(trained / "out"), trained / "data" / "train" / "2.jpg"
    before = predictor(photo)
    own = {name: value.clone() for name, value in predictor.model.state_dict().items()}
    with torch.no_grad():
        for parameter in predictor.model.parameters():
            parameter.mul_(0.7)
    changed = predictor(photo)
    assert len(changed) != len(before) or not torch.equal(changed.scores, before.scores)
    fresh = detkit.Predictor.from_run(trained / "out")
    fresh.model.load_state_dict(predictor.model.state_dict())
    fresh._prepare()
    torch.testing.assert_close(changed.scores, fresh(photo).scores, rtol=0, atol=0)
    predictor.model.load_state_dict(own)
    same(predictor(photo), before)


def test_every_kind_of_image_gives_the_same(predictor: detkit.Predictor, trained: Path, tmp_path: Path) -> None:
    pixels = cv2.imread(str(trained / "data" / "train" / "2.jpg"))
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), pixels)
    expected = predictor(pixels)
    for image in (path, str(path), Image.open(path)):
        same(predictor(image), expected)
    gray = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    same(predictor(gray), predictor(np.stack([gray] * 3, axis=-1)))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_list_gives_one_result_each(predictor: detkit.Predictor, trained: Path, batch_size: int) -> None:
    paths = [trained / "data" / "train" / f"{number}.jpg" for number in (1, 2, 3)]
    results = predictor(paths, batch_size=batch_size)
    assert isinstance(results, list) and len(results) == 3
    for path, result in zip(paths, results, strict=True):
        same(result, predictor(path))
    assert predictor([]) == []


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), ValueError, "an array of float32. It has to be of uint8"),
        (np.zeros((3, 4, 4), np.uint8), ValueError, r"has the shape \(3, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"has the shape \(0, 4, 3\)"),
        (5, TypeError, "not a int"),
        (Image.fromarray(np.full((8, 8), 3000, np.uint16)), DataError, "more than 8 bits per channel; set INPUT.DEEP_IMAGES"),
        ("nowhere.jpg", DataError, "The image nowhere.jpg cannot be read"),
    ],
)
def test_what_is_no_image(predictor: detkit.Predictor, image: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        predictor(image)


def code_blocks(page: str) -> list[str]:
    """Fenced and indented Python of a page that names ``from_run`` or Detectron2's predictor with a run."""
    text = (ROOT / page).read_text(encoding="utf-8")
    indented = [textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)]
    fenced = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return [
        block
        for block in indented + fenced
        if "output/raccoon" in block and "_net.py" not in block and "tools/" not in block and "_mmdet" not in block
    ]


@pytest.mark.parametrize(("page", "count"), [("README.md", 1), ("docs/predict.md", 2)])
def test_the_pages_show_what_works(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, page: str, count: int
) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "raccoon").symlink_to(trained / "out", target_is_directory=True)
    shutil.copy(trained / "data" / "train" / "1.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    blocks = code_blocks(page)
    assert len(blocks) == count
    for block in blocks:
        names: dict[str, Any] = {"image": cv2.imread("photo.jpg")}
        exec(block, names)
        assert len(names["instances"]) > 10
    assert Image.open("detections.jpg").width >= 64


def test_the_recipe_with_a_config_file(trained: Path) -> None:
    weights = trained / "out" / "model_final.pth"
    predictor = detkit.Predictor(trained / "out" / "config.yaml", weights=weights)
    assert predictor.class_names == ["ball", "cube"]  # they travel with the weights
    assert detkit.Predictor(trained / "out" / "config.yaml", weights=weights, class_names=["a", "b"]).class_names == ["a", "b"]
    with pytest.raises(ValueError, match="3 class names for the 2 classes"):
        detkit.Predictor(trained / "out" / "config.yaml", weights=weights, class_names=["a", "b", "c"])


def ours(cfg: Any) -> None:
    detkit.Predictor(cfg)


def test_weights_of_other_classes_are_refused(trained: Path) -> None:
    """The config of the method has 80 classes."""
    cfg = get_cfg()
    cfg.merge_from_file(detkit.get_config_file("quick/fcos_shapes.yaml"))
    cfg.MODEL.FCOS.NUM_CLASSES, cfg.MODEL.WEIGHTS = 80, str(trained / "out" / "model_final.pth")
    for predict, what in (
        (ours, r"cls_score.bias has shape \(2,\) in the file and \(80,\)"),
        (DefaultPredictor, r"head.cls_score.\{weight, bias\}"),
    ):
        with pytest.raises(CheckpointError, match=what):
            predict(cfg)


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        ("quick/atss_shapes.yaml", set()),
        ("quick/dw_shapes.yaml", set()),
        ("quick/sparsercnn_shapes.yaml", set()),
        ("quick/lsnet_segm_shapes.yaml", {"pred_masks"}),
        ("quick/lsnet_pose_shapes.yaml", {"pred_keypoints"}),
        ("quick/lsnet_multitask_shapes.yaml", {"pred_masks", "pred_keypoints", "pred_polygons", "pred_extreme_points"}),
        ("quick/fcos_rpn_mobilenetv2.yaml", set()),
    ],
)
def test_every_detector_predicts_and_draws(tmp_path: Path, config: str, fields: set[str]) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(detkit.get_config_file(config))
    cfg.MODEL.BACKBONE.WEIGHTS, cfg.MODEL.WEIGHTS, cfg.INPUT.MIN_SIZE_TEST = "", "", 96
    node = method_node(cfg)
    thresholds = [key for key, _ in flatten(cfg) if key in (f"{node.path}.TEST.SCORE_THRESH", f"{node.path}.SCORE_THRESH_TEST")]
    cfg.merge_from_list([word for key in thresholds for word in (key, 0.0)])
    torch.save(Trainer.build_model(cfg).state_dict(), tmp_path / "weights.pth")
    predictor = detkit.Predictor(cfg, weights=tmp_path / "weights.pth")
    photo = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    instances = predictor(photo)
    assert len(instances) and all(instances.has(field) for field in fields) and len(predictor.class_names) == node.NUM_CLASSES
    assert instances[:5].draw(min_score=0.0).width == 520
    other = cfg.clone()
    other.merge_from_list([f"{node.path}.NUM_CLASSES", node.NUM_CLASSES + 1])
    with pytest.raises(CheckpointError, match="fits the model only in part"):
        detkit.Predictor(other, weights=tmp_path / "weights.pth")


def test_weights_of_a_backbone_are_refused(trained: Path, tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(trained / "out" / "config.yaml")
    state = read_checkpoint(trained / "out" / "model_final.pth")["model"]
    torch.save({key: value for key, value in state.items() if key.startswith("backbone")}, tmp_path / "backbone.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "backbone.pth")
    for predict in (ours, DefaultPredictor):
        with pytest.raises(CheckpointError, match=r"head\.cls_"):
            predict(cfg)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_config_of_a_gpu_works_without_one(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "out", tmp_path / "out")
    config = tmp_path / "out" / "config.yaml"
    config.write_text(config.read_text().replace("DEVICE: cpu", "DEVICE: cuda"))
    assert "DEVICE: cuda" in config.read_text()
    assert detkit.Predictor.from_run(tmp_path / "out").device.type == "cpu"
    assert detkit.Predictor.from_run(tmp_path / "out", device="cuda:0").device.type == "cpu"
    cfg = get_cfg()
    cfg.merge_from_file(config)
    cfg.MODEL.WEIGHTS = str(tmp_path / "out" / "model_final.pth")
    assert len(DefaultPredictor(cfg)(np.zeros((48, 64, 3), np.uint8))["instances"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda out: shutil.rmtree(out), CheckpointError, "There is no folder"),
        (lambda out: (out / "model_final.pth").unlink(), CheckpointError, "There is no checkpoint of the run in"),
        (lambda out: (out / "config.yaml").unlink(), ConfigError, "does not exist"),
    ],
)
def test_folders_that_hold_no_run(
    trained: Path, tmp_path: Path, change: Callable[[Path], Any], error: type[Exception], message: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained / "out", out)
    change(out)
    with pytest.raises(error, match=message):
        detkit.Predictor.from_run(out)


def test_no_weights(trained: Path) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(trained / "out" / "config.yaml")
    cfg.MODEL.WEIGHTS = ""
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS is ''"):
        detkit.Predictor(cfg)


def test_the_record_holds_the_names(trained: Path) -> None:
    (start,) = json.loads((trained / "out" / "run.json").read_text())["starts"]
    assert start["classes"] == ["ball", "cube"] and start["iteration"] == 0
    assert read_checkpoint(trained / "out" / "model_final.pth")["run"] == start["run"]
