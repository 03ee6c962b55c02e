"""From the trained run to a notebook: the way of a user with data of their own."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from PIL import Image

import detkit
from detkit.checkpoint import CheckpointError
from detkit.config import ConfigError, get_cfg
from detkit.data.reading import ImageReadError
from detkit.engine import run
from tests.toys.datasets import CocoFolder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CocoFolder]:
    """Two iterations on own data of two classes, by the command line of the README."""
    root = tmp_path_factory.mktemp("own")
    data = CocoFolder(root / "data")
    words = f"""
        --config-file {detkit.get_config_file("quick/atss_mobilenetv2.yaml")} OUTPUT_DIR {root / "out"} MODEL.BACKBONE.WEIGHTS ''
        DATASETS.NAME balls DATASETS.TRAIN_JSON {data.json_file} DATASETS.VAL_JSON {data.json_file}
        SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 DATALOADER.NUM_WORKERS 0 MODEL.ATSS.TEST.SCORE_THRESH 0.0
        INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64
    """.split()
    run([word if word != "''" else "" for word in words])
    return root / "out", data


def test_from_a_run_to_a_picture(trained: tuple[Path, CocoFolder]) -> None:
    folder, data = trained
    MetadataCatalog.pop("balls_train")  # as in a new process
    predictor = detkit.Predictor.from_run(folder)
    assert predictor.class_names == ["ball", "cube"]
    instances = predictor(data.image(1))
    assert len(instances) > 0 and instances.image_size == (48, 64)
    assert {int(number) for number in instances.pred_classes} <= {0, 1}
    drawn = predictor.draw(data.image(1), instances, min_score=float(instances.scores[0]))
    plain = np.asarray(Image.open(data.image(1)).convert("RGB"))
    assert drawn.shape == plain.shape and (drawn != plain).any()
    assert (predictor.draw(data.image(1), min_score=1.1) == plain).all()


def test_the_example_of_the_readme(trained: tuple[Path, CocoFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data = trained
    blocks = re.findall(r"(?:^    .+\n|^\n)+", (Path(__file__).parents[1] / "README.md").read_text(), re.MULTILINE)
    (block,) = [block for block in blocks if "from_run" in block]
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "raccoon").symlink_to(folder)
    shutil.copy(data.image(1), tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(textwrap.dedent(block), names)
    assert set(names["names"]) <= {"ball", "cube"}
    assert Image.open(tmp_path / "found.png").size == (64, 48)


def test_the_picture_bears_the_names(trained: tuple[Path, CocoFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data = trained
    texts: list[str] = []
    monkeypatch.setattr("detectron2.utils.visualizer.Visualizer.draw_text", lambda self, text, *_, **__: texts.append(text))
    detkit.Predictor.from_run(folder).draw(data.image(1), min_score=0.0)
    assert texts and {text.split()[0] for text in texts} <= {"ball", "cube"}


def test_the_detections_are_those_of_the_evaluation(trained: tuple[Path, CocoFolder]) -> None:
    folder, data = trained
    predictor = detkit.Predictor.from_run(folder)
    saved = json.loads((folder / "inference" / "balls_val" / "coco_instances_results.json").read_text())
    for number in (1, 2, 3):
        found = predictor(str(data.image(number)))
        expected = [each for each in saved if each["image_id"] == number]
        assert len(found) == len(expected) > 0
        boxes = found.pred_boxes.tensor.clone()
        boxes[:, 2:] -= boxes[:, :2]
        torch.testing.assert_close(boxes, torch.tensor([each["bbox"] for each in expected]), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found.scores, torch.tensor([each["score"] for each in expected]), rtol=1e-4, atol=1e-5)
        assert [(3, 7)[i] for i in found.pred_classes] == [each["category_id"] for each in expected]


def test_paths_arrays_and_images_give_the_same(trained: tuple[Path, CocoFolder]) -> None:
    folder, data = trained
    predictor = detkit.Predictor.from_run(folder)
    image = Image.open(data.image(2))
    bgr = np.asarray(image)[:, :, ::-1]
    expected = predictor(data.image(2))
    small = Image.new("L", (40, 30))
    several = predictor([image, bgr, small], batch_size=2)
    assert isinstance(several, list) and several[2].image_size == (30, 40)
    for found in (predictor(bgr), predictor(image), *several[:2]):
        torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    assert predictor([]) == []


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3)), np.zeros((3, 4, 4), np.uint8), None, 5])
def test_what_is_no_image_is_refused(trained: tuple[Path, CocoFolder], image: Any) -> None:
    with pytest.raises(ImageReadError, match="An image is a path"):
        detkit.Predictor.from_run(trained[0])(image)


def test_a_file_that_cannot_be_read_is_named(trained: tuple[Path, CocoFolder], tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    predictor = detkit.Predictor.from_run(trained[0])
    for name in ("a.jpg", "nowhere.jpg"):
        with pytest.raises(ImageReadError, match=name):
            predictor(tmp_path / name)


def run_cfg(folder: Path) -> Any:
    cfg = get_cfg()
    cfg.merge_from_file(folder / "config.yaml")
    cfg.MODEL.WEIGHTS = str(folder / "model_final.pth")
    return cfg


def test_detectron2s_predictor_with_the_config_of_the_run(trained: tuple[Path, CocoFolder]) -> None:
    folder, data = trained
    bgr = np.asarray(Image.open(data.image(1)))[:, :, ::-1]
    theirs = DefaultPredictor(run_cfg(folder))(bgr)["instances"]
    ours = detkit.Predictor.from_run(folder)(bgr)
    torch.testing.assert_close(theirs.pred_boxes.tensor, ours.pred_boxes.tensor)


def test_weights_of_other_classes_are_an_error_with_both_predictors(trained: tuple[Path, CocoFolder]) -> None:
    folder, data = trained
    cfg = run_cfg(folder)
    cfg.MODEL.ATSS.NUM_CLASSES = 80
    with pytest.raises(CheckpointError, match=r"(?s)head.cls_score.weight has shape \(2, .*The number of classes differs"):
        detkit.Predictor(cfg)
    predictor = DefaultPredictor(cfg)
    with pytest.raises(CheckpointError, match=r"cannot predict: 2 of its weights .*head.cls_score.\{weight, bias\}.*NUM_CLASSES"):
        predictor(np.zeros((48, 64, 3), np.uint8))


def test_cuda_falls_back_to_the_cpu(trained: tuple[Path, CocoFolder]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    folder, _ = trained
    cfg = run_cfg(folder)
    cfg.MODEL.DEVICE = "cuda"
    assert detkit.Predictor(cfg).cfg.MODEL.DEVICE == "cpu" and cfg.MODEL.DEVICE == "cuda"
    assert detkit.Predictor.from_run(folder, device="cuda:0").cfg.MODEL.DEVICE == "cpu"


def test_names_of_classes(trained: tuple[Path, CocoFolder], tmp_path: Path) -> None:
    folder, _ = trained
    cfg = run_cfg(folder)
    assert detkit.Predictor(cfg).class_names == ["ball", "cube"]
    assert detkit.Predictor(cfg, class_names=["a", "b"]).class_names == ["a", "b"]
    with pytest.raises(ConfigError, match="3 class names, but the model has 2"):
        detkit.Predictor(cfg, class_names=["a", "b", "c"])
    bare = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"]
    torch.save(bare, tmp_path / "bare.pth")
    cfg.MODEL.WEIGHTS, cfg.DATASETS.TRAIN = str(tmp_path / "bare.pth"), ()
    assert detkit.Predictor(cfg).class_names == ["class 0", "class 1"]


def test_folders_that_hold_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no .*config.yaml. Name the OUTPUT_DIR"):
        detkit.Predictor.from_run(tmp_path / "nowhere")
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(FileNotFoundError, match="no checkpoint of the run"):
        detkit.Predictor.from_run(tmp_path)
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS is ''"):
        detkit.Predictor(get_cfg())
