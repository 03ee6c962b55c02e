"""The command lines, as somebody calls them."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model
from PIL import Image

from detkit import OnnxPredictor
from tests.export.test_program import CONFIGS

TOOLS = Path(__file__).parents[2] / "tools"


def tool(name: str) -> ModuleType:
    """A command line as a module; ``tools/`` is no package."""
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


export, evaluate_onnx = tool("export"), tool("evaluate_onnx")


def test_a_run_is_exported_and_compared(tmp_path, capsys):
    cfg = CONFIGS["FCOS"]()
    cfg.MODEL.FCOS.TEST.SCORE_THRESH = 0.0
    (tmp_path / "config.yaml").write_text(cfg.dump())
    torch.save(build_model(cfg).state_dict(), tmp_path / "model.pth")
    output = tmp_path / "model.ts"
    options = ["--format", "torchscript", "--size", "160x192", "--batch", "1", "--output", str(output)]
    export.main([str(tmp_path / "config.yaml"), *options, "MODEL.WEIGHTS", str(tmp_path / "model.pth")])
    assert output.is_file()
    assert "detections the same" in capsys.readouterr().out


def test_folder_of_a_run_is_exported_with_the_names_of_its_classes(tmp_path):
    cfg = CONFIGS["FCOS"]()
    (tmp_path / "config.yaml").write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict(), "classes": ["cat", "dog", "bird"]}, tmp_path / "model_final.pth")
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    output = tmp_path / "model.ts"
    export.main([str(tmp_path), "--raw", "--format", "torchscript", "--size", "160x192", "--batch", "1", "--output", str(output)])
    stored = {"metadata.json": ""}
    torch.jit.load(output, _extra_files=stored)
    assert json.loads(json.loads(stored["metadata.json"])["class_names"]) == ["cat", "dog", "bird"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["no/such.yaml"], "There is no model 'no/such.yaml'"),
        (["quick/fcos_shapes.yaml", "--format", "torchscript"], "give --size HxW and --batch N"),
        (["quick/fcos_shapes.yaml", "MODEL.WEIGHTS", "missing.pth"], "missing.pth"),
    ],
)
def test_bad_input_ends_with_one_message(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        export.main(arguments)
    assert not list(tmp_path.iterdir())


def test_weights_that_a_config_names_are_exported_and_no_others(tmp_path, monkeypatch):
    cfg = CONFIGS["FCOS"]()
    cfg.DATASETS.CLASS_NAMES = ["cat", "dog", "bird"]
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    (tmp_path / "own.yaml").write_text(cfg.dump())
    with pytest.raises(SystemExit, match="model.pth"):
        export.main([str(tmp_path / "own.yaml"), "--raw"])
    model = build_model(cfg)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    given = {}
    monkeypatch.setattr(export, "export_detector", lambda model, path, **options: given.update(options, model=model) or path.touch())
    output = ["--output", str(tmp_path / "x.onnx")]
    export.main([str(tmp_path / "own.yaml"), *output])
    assert all(torch.equal(value, given["model"].state_dict()[key]) for key, value in model.state_dict().items())
    for config in ("own.yaml", "recipe.yaml"):
        if config == "recipe.yaml":  # a config of the project names where its training starts, which is no detector
            monkeypatch.setattr(export, "_is_recipe", lambda name: name.endswith("recipe.yaml"))
            (tmp_path / config).write_text(cfg.dump())
        words = [] if config == "recipe.yaml" else ["MODEL.WEIGHTS", ""]
        export.main([str(tmp_path / config), *output, *words])
        assert json.loads(given["metadata"]["class_names"]) == ["cat", "dog", "bird"] and not given["photos"]
        assert not torch.equal(model.state_dict()["backbone.stem.weight"], given["model"].state_dict()["backbone.stem.weight"])


@pytest.mark.parametrize("name", ["quick/fcos_shapes.yaml", str(TOOLS.parent / "configs" / "quick" / "fcos_shapes.yaml")])
def test_configs_of_the_project_are_known_by_name_and_path(name):
    assert export._is_recipe(name) and not export._is_recipe("own.yaml")


def test_a_detector_is_compared_on_images_of_its_test_set(tmp_path, monkeypatch):
    data = own_data(tmp_path, sizes=[(160, 192), (320, 480), (480, 320)])
    cfg = CONFIGS["FCOS"]()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 160, 320
    cfg.DATASETS.VAL_JSON = str(data)
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    (tmp_path / "own.yaml").write_text(cfg.dump())
    torch.save(build_model(cfg).state_dict(), tmp_path / "model.pth")
    given = {}
    monkeypatch.setattr(export, "export_detector", lambda model, path, **options: given.update(options) or path.touch())
    words = ["--output", str(tmp_path / "x.onnx")]
    export.main([str(tmp_path / "own.yaml"), *words])
    assert {tuple(photo.shape) for photo in given["photos"]} == {(3, 160, 192), (3, 160, 240), (3, 240, 160)}
    export.main([str(tmp_path / "own.yaml"), *words, "--size", "160x192"])
    assert {tuple(photo.shape) for photo in given["photos"]} == {(3, 160, 192), (3, 128, 192), (3, 160, 106)}
    data.unlink()
    export.main([str(tmp_path / "own.yaml"), *words])
    assert given["photos"] == []


def own_data(folder: Path, *, sizes: list[tuple[int, int]], file: Path | None = None) -> Path:
    """Annotations of images (height, width) of noise: of each the five best detections of an exported file, or one box."""
    categories = [{"id": 7 + number, "name": name} for number, name in enumerate(("cat", "dog", "bird"))]
    content: dict[str, list] = {"images": [], "annotations": [], "categories": categories}
    generator = np.random.default_rng(0)
    predictor = None if file is None else OnnxPredictor(file, threads=1)
    for number, size in enumerate(sizes):
        coarse = Image.fromarray(generator.integers(0, 256, (12, 14, 3), np.uint8))
        coarse.resize(size[::-1]).save(folder / f"{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png", "height": size[0], "width": size[1]})
        found = [{"bbox": [10, 10, 50, 40], "category_id": 7}]
        if predictor is not None:
            found = predictor(folder / f"{number}.png")[:5].to_coco(category_ids=[7, 8, 9])
        for each in found:
            box = {"bbox": each["bbox"], "area": each["bbox"][2] * each["bbox"][3], "category_id": each["category_id"]}
            content["annotations"].append({"id": len(content["annotations"]) + 1, "image_id": number, "iscrowd": 0, **box})
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def evaluation(fcos_file, tmp_path):
    """Words that evaluate the file on images of its own detections, as large as its model was tested on."""
    data = own_data(tmp_path, sizes=[(160, 192), (320, 384), (480, 320)], file=fcos_file)
    cfg = CONFIGS["FCOS"]()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.RESIZE = 160, 320, "pillow"
    cfg.DATALOADER.NUM_WORKERS = 0
    (tmp_path / "own.yaml").write_text(cfg.dump())
    return [
        str(fcos_file),
        "--config-file",
        str(tmp_path / "own.yaml"),
        "OUTPUT_DIR",
        str(tmp_path / "run"),
        "DATASETS.VAL_JSON",
        str(data),
    ]


@pytest.mark.parametrize("words", [[], ["TEST.PRECISION", "bfloat16", "MODEL.COMPILE", "True"]])  # keys of the model, not of its file
def test_evaluation_of_a_file_that_finds_what_is_there(words, evaluation, tmp_path, capsys):
    before = tmp_path / "run" / "inference" / "custom_val"
    before.mkdir(parents=True)
    (before / "coco_instances_results.json").write_text("of the model")
    evaluate_onnx.main([*evaluation, *words])
    found = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"custom_val, bbox: AP ([0-9.]+)  AP50 .*", found), found
    assert float(found.split()[3]) > 90
    assert (before / "coco_instances_results.json").read_text() == "of the model"
    assert list((tmp_path / "run" / "onnx" / "fcos" / "inference").rglob("coco_instances_results.json"))


def test_evaluation_of_a_file_of_one_size_resizes_to_it(fcos_file, evaluation, monkeypatch, capsys):
    class Fixed(OnnxPredictor):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.metadata["size"] = [160, 192]

    monkeypatch.setattr("detkit.export.evaluation.OnnxPredictor", Fixed)
    evaluate_onnx.main(evaluation)
    assert float(capsys.readouterr().out.splitlines()[-1].split()[3]) > 30  # the third image does not fit, and is seen smaller


@pytest.mark.parametrize(
    "words, message",
    [
        (["INPUT.FORMAT", "RGB"], "INPUT.FORMAT is RGB, but .*fcos.onnx takes BGR"),
        (
            ["DATASETS.VAL_JSON", "", "DATASETS.TEST", "('renamed',)"],
            r"DATASETS.TEST renamed has the classes cat, cow, bird \(3\), but .*fcos.onnx",
        ),
        (["DATASETS.VAL_JSON", "missing.json"], "missing.json"),
    ],
)
def test_a_file_that_does_not_fit_the_config_is_refused(words, message, evaluation, tmp_path, monkeypatch):
    content = json.loads((tmp_path / "annotations.json").read_text())
    content["categories"][1]["name"] = "cow"
    (tmp_path / "renamed.json").write_text(json.dumps(content))
    register_coco_instances("renamed", {}, str(tmp_path / "renamed.json"), str(tmp_path))
    try:
        with pytest.raises(SystemExit, match=message):
            evaluate_onnx.main([*evaluation, *words])
    finally:
        DatasetCatalog.remove("renamed")
        MetadataCatalog.remove("renamed")


def test_evaluation_names_the_missing_file(tmp_path):
    with pytest.raises(SystemExit, match="there is no file"):
        evaluate_onnx.main([str(tmp_path / "missing.onnx"), "--config-file", "configs/quick/fcos_shapes.yaml", "DATASETS.TEST", "()"])
