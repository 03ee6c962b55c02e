"""The tensor path of every detector: equal to the model as it is called, compiled in one graph, exported for any size."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor, nn
from torch.testing import assert_close

from detkit.export import Agreement, DetectorProgram, ExportSettings, compare_outputs, export_program
from detkit.layers import PyramidPooler, pool_pyramid, pool_pyramid_densely
from lsnet.corners import _running_maximum
from tests.toys.detectors import random_inputs, tiny_cfg, tiny_sparse_cfg


def _dense(method: str, **head: Any) -> Any:
    cfg = tiny_cfg(method)
    for key, value in head.items():
        cfg.MODEL[method].HEAD[key] = value
    cfg.MODEL[method].TEST.SCORE_THRESH = 0.01
    return cfg


def _retinanet() -> Any:
    cfg = _dense("ATSS")
    cfg.MODEL.ATSS.ANCHORS.SCALES, cfg.MODEL.ATSS.ANCHORS.RATIOS = [4.0, 5.0, 6.3], [0.5, 1.0, 2.0]
    return cfg


def _tood() -> Any:
    cfg = _dense("DW", NAME="TOODHead", NUM_CONVS=2)
    cfg.MODEL.DW.BOX_CODER.NAME = "linear"
    cfg.MODEL.DW.HEAD.QUALITY = "none"
    return cfg


def _plus_one() -> Any:
    cfg = _dense("FCOS")
    cfg.MODEL.FCOS.PLUS_ONE = True
    return cfg


def _lsnet(task: str, *, corners: bool = False) -> Any:
    cfg = tiny_cfg("LSNet")
    cfg.MODEL.LSNET.TASKS = task.split("+")
    cfg.MODEL.LSNET.TEST.SCORE_THRESH = 0.01
    cfg.MODEL.LSNET.CPV.ENABLED = corners
    if task == "pose":
        cfg.MODEL.LSNET.NUM_CLASSES = 1
    return cfg


def _one_to_one() -> Any:
    cfg = _dense("FCOS", NAME="MaxFilteringHead", QUALITY="box")
    node = cfg.MODEL.FCOS
    node.ASSIGNER, node.AUXILIARY.ASSIGNER, node.LOSS.CRITERION = "POTOAssigner", "QualityATSSAssigner", "weighted"
    node.TEST.SCORE, node.TEST.NMS_THRESH = "product", None
    return cfg


CONFIGS = {
    "FCOS": lambda: _dense("FCOS"),
    "FCOS, one-to-one": _one_to_one,
    "FCOS, inclusive corners": _plus_one,
    "ATSS": lambda: _dense("ATSS"),
    "nine anchors": _retinanet,
    "DW": lambda: _dense("DW"),
    "DW, refined": lambda: _dense("DW", NAME="RefiningHead"),
    "TOOD": _tood,
    "Sparse R-CNN": tiny_sparse_cfg,
    "LSNet bbox": lambda: _lsnet("bbox"),
    "LSNet segm": lambda: _lsnet("segm"),
    "LSNet pose": lambda: _lsnet("pose"),
    "LSNet bbox+pose+segm": lambda: _lsnet("bbox+pose+segm"),
    "LSNet, corners": lambda: _lsnet("bbox", corners=True),
}
DETECTORS = pytest.mark.parametrize("name", list(CONFIGS))


def fast(*chosen: str) -> pytest.MarkDecorator:
    """Every detector, all but the chosen ones marked as slow."""
    return pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in chosen else pytest.mark.slow) for name in CONFIGS])


def detector(name: str) -> nn.Module:
    """A tiny detector whose scores differ from place to place."""
    torch.manual_seed(0)
    model = build_model(CONFIGS[name]()).eval()
    for key, parameter in model.named_parameters():
        if parameter.ndim > 1 and "backbone" not in key:
            nn.init.normal_(parameter, std=0.3 / max(parameter[0].numel(), 1) ** 0.5 * (4 if "cls" in key else 1))
    return model


def batch(height: int = 160, width: int = 192) -> tuple[Tensor, Tensor]:
    """Two images, the second one smaller, with noise beyond its border that must not be seen."""
    coarse = torch.rand(2, 3, 12, 14, generator=torch.Generator().manual_seed(3)) * 255
    images = nn.functional.interpolate(coarse, (height, width), mode="bilinear").round()
    return images, torch.tensor([[height, width], [height - 21, width - 34]])


def as_called(model: nn.Module, images: Tensor, sizes: Tensor) -> list[Any]:
    inputs = [{"image": image[:, :h, :w]} for image, (h, w) in zip(images, sizes.tolist(), strict=True)]
    with torch.no_grad():
        return [output["instances"] for output in model(inputs)]


@DETECTORS
def test_equals_the_model_as_it_is_called(name):
    model, (images, sizes) = detector(name), batch()
    program = DetectorProgram(model)
    with torch.no_grad():
        outputs = program(images, sizes)
    found = dict(zip(program.output_names, outputs, strict=True))
    for i, expected in enumerate(as_called(model, images, sizes)):
        count = int(found["counts"][i])
        assert count == len(expected) > 5
        assert_close(found["boxes"][i, :count], expected.pred_boxes.tensor, atol=1e-3, rtol=1e-5)
        assert_close(found["scores"][i, :count], expected.scores)
        assert_close(found["classes"][i, :count], expected.pred_classes)
        fields = {"bbox": "pred_extreme_points", "pose": "pred_keypoints", "segm": "pred_polygons"}
        learned = [task for task, field in fields.items() if expected.has(field)]
        for task in learned:
            points = found["landmarks" if len(learned) == 1 else f"landmarks_{task}"][i, :count]
            assert_close(points, expected.get(fields[task])[..., :2], atol=1e-3, rtol=1e-5)
        assert sum(name.startswith("landmarks") for name in found) == len(learned)
        assert not found["boxes"][i, count:].any() and not found["scores"][i, count:].any()
        assert (found["classes"][i, count:] == -1).all()


@fast("FCOS", "DW, refined", "Sparse R-CNN", "LSNet segm")
def test_compiles_as_one_graph(name):
    program, (images, sizes) = DetectorProgram(detector(name)), batch()
    torch.compiler.reset()  # the same function is not compiled for more than a few models
    with torch.no_grad():
        expected = program(images, sizes)
        actual = torch.compile(program, fullgraph=True, backend="eager")(images, sizes)
    for value, wanted in zip(actual, expected, strict=True):
        assert_close(value, wanted, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("dim", [2, 3])
def test_running_maximum_by_shifts_is_exact(dim):
    x = torch.randn(2, 3, 7, 37, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(_running_maximum, fullgraph=True, backend="eager")
    assert_close(compiled(x, dim), x.cummax(dim).values, atol=0, rtol=0)


@pytest.mark.slow
@DETECTORS
def test_compiles_to_machine_code(name):
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("the inductor needs a C++ compiler, and there is none")
    program = DetectorProgram(detector(name))
    torch.compiler.reset()
    compiled = torch.compile(program, fullgraph=True, dynamic=True)
    for size in ((160, 192), (224, 131)):
        images, sizes = batch(*size)
        with torch.no_grad():
            values = [program(images, sizes), compiled(images, sizes)]
        expected, actual = (dict(zip(program.output_names, each, strict=True)) for each in values)
        agreement = Agreement()
        compare_outputs(actual, expected, agreement)
        assert agreement.detections > 20 and agreement.unmatched == 0 and agreement.box < 0.01


@fast("Sparse R-CNN")
def test_exports_for_any_size(name):
    program = DetectorProgram(detector(name))
    exported = export_program(program, ExportSettings())
    assert not [node for node in exported.graph.nodes if "nonzero" in str(node.target) or "assert_scalar" in str(node.target)]
    for size in ((160, 192), (224, 131)):
        images, sizes = batch(*size)
        with torch.no_grad():
            for value, wanted in zip(exported.module()(images, sizes), program(images, sizes), strict=True):
                assert_close(value, wanted, atol=1e-3, rtol=1e-4)


def test_raw_outputs_are_the_maps_of_the_head():
    model, (images, sizes) = detector("FCOS"), batch()
    program = DetectorProgram(model, raw=True)
    with torch.no_grad():
        outputs = dict(zip(("logits_p3",), program(images, sizes)[:1], strict=True))
        inputs = [{"image": image[:, :h, :w]} for image, (h, w) in zip(images, sizes.tolist(), strict=True)]
        assert_close(outputs["logits_p3"], model.predict(model.preprocess_image(inputs)).logits[0])
    levels = ("p3", "p4", "p5")
    assert program.output_names == tuple(f"{kind}_{level}" for kind in ("logits", "boxes", "quality") for level in levels)


@pytest.mark.parametrize("name", ["FCOS", "Sparse R-CNN", "DW, refined"])
def test_forward_refuses_to_be_traced(name):
    class Adapter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = detector(name)

        def forward(self, image: Tensor) -> Tensor:
            return self.model([{"image": image}])[0]["instances"].pred_boxes.tensor

    image = random_inputs(1)[0]["image"].float()
    with pytest.raises(RuntimeError, match="cannot be traced: sizes of this image would become constants"):
        torch.jit.trace(Adapter(), image)
    with pytest.raises(RuntimeError, match="cannot be traced: sizes of this image would become constants"):
        torch.export.export(Adapter(), (image,), strict=False)


def test_program_refuses_traces_that_would_take_other_sizes():
    with pytest.raises(RuntimeError, match="would keep the sizes of this image as constants"):
        torch.jit.trace(DetectorProgram(detector("FCOS")), batch())


def test_pooling_in_one_operator_equals_pooling_level_by_level():
    torch.manual_seed(0)
    pyramid = [torch.randn(2, 4, side, side) for side in (32, 16, 8)]
    corner = torch.rand(2, 9, 2) * 150
    boxes = torch.cat([corner, corner + torch.linspace(20, 900, 18).view(2, 9, 1)], dim=-1)
    pooler = PyramidPooler(3, [1 / 8, 1 / 16, 1 / 32], 2, "ROIAlignV2")
    expected = pooler(pyramid, boxes)
    images = torch.arange(2.0)[:, None, None].expand(2, 9, 1)
    sizes = (boxes[..., 2:] - boxes[..., :2]).prod(-1).sqrt().flatten()
    levels = (4 + (sizes / 224 + 1e-8).log2()).floor().clamp(3, 5).long() - 3
    assert set(levels.tolist()) == {0, 1, 2}
    for pool in (pool_pyramid, pool_pyramid_densely):
        actual = pool(pyramid, torch.cat([images, boxes], dim=-1).flatten(0, 1), levels, [1 / 8, 1 / 16, 1 / 32], 3, 2, True)
        assert_close(actual, expected)
