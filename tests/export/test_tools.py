"""The command lines, as somebody calls them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from detectron2.modeling import build_model

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


def test_evaluation_names_the_missing_file(tmp_path):
    with pytest.raises(SystemExit, match="there is no file"):
        evaluate_onnx.main([str(tmp_path / "missing.onnx"), "--config-file", "configs/quick/fcos_shapes.yaml", "DATASETS.TEST", "()"])
