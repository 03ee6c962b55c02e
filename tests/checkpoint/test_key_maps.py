"""The language of key maps, and the tables against the key lists of released weights."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.modeling import build_model

from detkit.checkpoint import convert_state_dict
from detkit.checkpoint.key_maps import KEY_MAPS, KeyMap
from detkit.checkpoint.key_maps.adelaidet import ADELAIDET_FCOS
from detkit.checkpoint.key_maps.detectron2 import DETECTRON2_RETINANET
from detkit.checkpoint.key_maps.fcos_core import FCOS_CORE
from detkit.checkpoint.key_maps.mmdetection import MMDETECTION
from detkit.checkpoint.key_maps.template import fill, match
from detkit.config import get_cfg
from tests.parity.cases import FULL_FOLDER
from tests.parity.sources import set_network

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("template", "key", "values"),
    [
        ("a.{i}.b", "a.12.b", {"i": 12}),
        ("a.{3i}.b", "a.6.b", {"i": 2}),
        ("a.{3i+1}.b", "a.7.b", {"i": 2}),
        ("a.{i-3}", "a.0", {"i": 3}),
        ("a.{i+1}", "a.0", None),
        ("a.{3i}.b", "a.7.b", None),
        ("a.{i}.b", "a.x.b", None),
        ("a.{param}", "a.weight", {"param": "weight"}),
        ("a.{param}", "a.conv.weight", None),
        ("a.{...}", "a.conv.weight", {"...": "conv.weight"}),
        ("a{i}.b{i}", "a1.b2", None),
        ("a.b", "axb", None),
    ],
)
def test_templates(template: str, key: str, values: dict | None) -> None:
    assert match(template, key) == values
    if values is not None:
        assert fill(template, values) == key


def test_the_first_rule_that_fits_counts() -> None:
    key_map = KeyMap(name="x", rules={"a.3.{param}": "special.{param}", "a.{i}.{param}": "b.{i+1}.{param}"}, ignore=("c.{...}",))
    assert [key_map.rename(key) for key in ("a.3.w", "a.2.w", "c.d.e")] == ["special.w", "b.3.w", None]
    assert key_map.ignores("c.d.e")
    assert not key_map.ignores("d.c.e")


@pytest.mark.parametrize(
    ("source", "key", "ours"),
    [
        (FCOS_CORE, "backbone.body.layer3.5.conv2.conv.weight", "backbone.bottom_up.res4.5.conv2.weight"),
        (FCOS_CORE, "backbone.body.layer3.5.conv2.offset.bias", "backbone.bottom_up.res4.5.conv2.conv_offset.bias"),
        (FCOS_CORE, "rpn.head.cls_tower.9.conv.bias", "head.cls_tower.3.bias"),
        (FCOS_CORE, "rpn.head.bbox_tower.9.offset.weight", "head.box_tower.3.conv_offset.weight"),
        (ADELAIDET_FCOS, "backbone.bottom_up.res3.0.conv2_offset.weight", "backbone.bottom_up.res3.0.conv2.conv_offset.weight"),
        (ADELAIDET_FCOS, "proposal_generator.fcos_head.bbox_tower.9.conv.weight", "head.box_tower.3.weight"),
        (ADELAIDET_FCOS, "proposal_generator.fcos_head.cls_tower.9.offset.bias", "head.cls_tower.3.conv_offset.bias"),
        (DETECTRON2_RETINANET, "backbone.bottom_up.res5.2.conv2_offset.bias", "backbone.bottom_up.res5.2.conv2.conv_offset.bias"),
        (MMDETECTION, "backbone.layer2.0.conv2.conv_offset.weight", "backbone.bottom_up.res3.0.conv2.conv_offset.weight"),
        (MMDETECTION, "bbox_head.reg_convs.3.conv.conv_offset.weight", "head.box_tower.3.conv_offset.weight"),
    ],
)
def test_deformable_layers(source: KeyMap, key: str, ours: str) -> None:
    assert source.rename(key) == ours


def test_every_rule_can_be_filled() -> None:
    example = defaultdict(lambda: "word", {"i": 40, "s": 41, "b": 42, "n": 43, "l": 44, "...": "x.weight"})
    for key_map in KEY_MAPS:
        for source, ours in key_map.rules.items():
            values = match(source, fill(source, example))
            assert values is not None, source
            fill(ours, values)


RELEASED = {
    "fcos_r50-caffe_fpn_gn-head_1x_coco": "fcos/fcos_R_50_FPN_1x_mmdet.yaml",
    "fcos_r101-caffe_fpn_gn-head-1x_coco": "fcos/fcos_R_50_FPN_1x_mmdet.yaml",
    "fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco": "fcos/fcos_R_50_FPN_1x_mmdet_improved.yaml",
    "fcos_r50-dcn-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco": "fcos/fcos_R_50_FPN_1x_mmdet_improved.yaml",
    "fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco": "fcos/fcos_R_50_FPN_1x_mmdet.yaml",
    "atss_r50_fpn_1x_coco": "atss/atss_R_50_FPN_1x_mmdet.yaml",
    "atss_r101_fpn_1x_coco": "atss/atss_R_50_FPN_1x_mmdet.yaml",
    "tood_r50_fpn_anchor-based_1x_coco": "dw/tood_R_50_FPN_1x_mmdet_anchor.yaml",
    "tood_r101_fpn_ms-2x_coco": "dw/tood_R_50_FPN_1x_mmdet.yaml",
    "tood_r101-dconv-c3-c5_fpn_ms-2x_coco": "dw/tood_R_50_FPN_1x_mmdet.yaml",
    "tood_x101-64x4d_fpn_ms-2x_coco": "dw/tood_R_50_FPN_1x_mmdet.yaml",
}


@pytest.mark.parametrize(
    ("name", "old_names"), [(name, False) for name in RELEASED] + [(name, True) for name in RELEASED if name.startswith("fcos")]
)
def test_released_mmdetection_weights(name: str, old_names: bool) -> None:
    """All keys of the released files, as they are now and as FCOS called them before version 2.0."""
    path = FULL_FOLDER / "mmdet_keys" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"key lists are missing: {path.parent} (DETKIT_GOLDENS)")
    shapes = {key: shape for key, shape, *_ in json.loads(path.read_text())["state_dict"]}
    if old_names:
        shapes = {key.replace("bbox_head.conv_", "bbox_head.fcos_"): shape for key, shape in shapes.items()}
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / RELEASED[name]))
    cfg.merge_from_list(["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", ""])
    set_network(cfg, shapes)
    with torch.device("meta"):
        model = build_model(cfg)
        converted, report = convert_state_dict({key: torch.empty(shape) for key, shape in shapes.items()}, model)
    assert report.complete, str(report)
    assert len(report.loaded) + len(report.ignored) == len(shapes)
    assert all(key.endswith("num_batches_tracked") for key in report.ignored)
    assert set(converted) == set(model.state_dict())


def test_torchvision_resnet_becomes_detectron2s() -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / "Base-Dense.yaml"))
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "FCOS", "MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", 18, "MODEL.WEIGHTS", ""])
    cfg.merge_from_list(["MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.STRIDE_IN_1X1", "False"])
    cfg.merge_from_list(["MODEL.FCOS.HEAD.CHANNELS", 32, "MODEL.FPN.OUT_CHANNELS", 32])
    model = build_model(cfg)
    source = torchvision.models.resnet18(weights=None).eval()
    converted, report = convert_state_dict(source.state_dict(), model)
    assert report.source == "torchvision ResNet"
    assert not report.mismatched
    assert {key.split(".")[0] for key in report.ignored if "num_batches" not in key} == {"fc"}
    assert not any(key.startswith("backbone.bottom_up") for key in report.missing)
    model.load_state_dict(converted, strict=False)
    model.eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        stages = torch.nn.Sequential(*list(source.children())[:-2])
        torch.testing.assert_close(model.backbone.bottom_up(image)["res5"], stages(image), rtol=1e-4, atol=1e-4)
