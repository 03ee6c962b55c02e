"""Every kind of published weights that a config names loads into its model with nothing left over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from detkit.checkpoint import convert_state_dict
from detkit.config import get_cfg

from .official_layouts import Shapes, adelaidet_fcos, dla34, fcos_core, mmdetection_head, mobilenet_v2, resnet

CONFIGS = Path(__file__).parents[2] / "configs"
C3_TO_C5, MOBILE, DLA = (512, 1024, 2048), (32, 96, 320), (128, 256, 512)
X32 = {"groups": 32, "width": 8}
X64 = {"groups": 64, "width": 4}


def benchmark(depth: int, deformable: tuple[int, ...] = (), **sizes: int) -> Shapes:
    body = resnet(depth, deformable=deformable, style="benchmark", **sizes)
    return fcos_core(body, C3_TO_C5, deformable=bool(deformable))


def adelaidet(depth: int, deformable: tuple[int, ...] = (), **sizes: int) -> Shapes:
    return adelaidet_fcos(resnet(depth, deformable=deformable, style="detectron2", **sizes), C3_TO_C5, deformable=bool(deformable))


LAYOUTS = {
    "fcos/fcos_X_101_32x8d_FPN_2x_improved": lambda: benchmark(101, **X32),
    "fcos/fcos_R_101_DCN_FPN_2x_improved": lambda: benchmark(101, (3, 4, 5)),
    "fcos/fcos_X_101_32x8d_DCN_FPN_2x_improved": lambda: benchmark(101, (4, 5), **X32),
    "fcos/fcos_X_101_64x4d_DCN_FPN_2x_improved": lambda: benchmark(101, (4, 5), **X64),
    "fcos/fcos_MobileNetV2_FPN_1x": lambda: fcos_core(mobilenet_v2(), MOBILE),
    "fcos/fcos_MobileNetV2_FPN_1x_bn": lambda: fcos_core(mobilenet_v2(), MOBILE),
    "fcos/fcos_MobileNetV2_c128_FPN_1x": lambda: fcos_core(mobilenet_v2(), MOBILE, width=128),
    "fcos/fcos_R_50_FPN_2x_adelaidet_iou": lambda: adelaidet(50),
    "fcos/fcos_R_101_FPN_2x_adelaidet_iou": lambda: adelaidet(101),
    "fcos/fcos_X_101_32x8d_FPN_2x_adelaidet": lambda: adelaidet(101, **X32),
    "fcos/fcos_X_101_32x8d_DCN_FPN_2x_adelaidet": lambda: adelaidet(101, (4, 5), **X32),
    "fcos/fcos_X_101_64x4d_FPN_2x_adelaidet": lambda: adelaidet(101, **X64),
    "fcos/fcos_rt_DLA_34_FPN_4x_adelaidet": lambda: adelaidet_fcos(dla34(), DLA, levels=3),
    "fcos/fcos_rt_DLA_34_FPN_4x_adelaidet_bn_head": lambda: adelaidet_fcos(dla34(), DLA, levels=3, batch_norm=True),
    "fcos/fcos_rt_DLA_34_FPN_4x_adelaidet_shared": lambda: adelaidet_fcos(dla34(), DLA, levels=3, towers=0, shared=4),
    "fcos/fcos_rt_DLA_34_FPN_4x_adelaidet_shared_bn_head": lambda: adelaidet_fcos(
        dla34(), DLA, levels=3, towers=0, shared=4, batch_norm=True
    ),
    "fcos/fcos_rt_R_50_FPN_4x_adelaidet": lambda: adelaidet_fcos(resnet(50, style="detectron2"), C3_TO_C5, levels=3),
    "fcos/fcos_rt_R_50_FPN_4x_adelaidet_bn_head": lambda: adelaidet_fcos(
        resnet(50, style="detectron2"), C3_TO_C5, levels=3, batch_norm=True
    ),
    "atss/retinanet_R_50_FPN_1x_mmdet": lambda: mmdetection_head("retinanet"),
    "dw/autoassign_R_50_FPN_1x_mmdet": lambda: mmdetection_head("autoassign"),
}


def config(name: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / f"{name}.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.WEIGHTS", ""])
    return cfg


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_layout_loads_with_nothing_left_over(name: str) -> None:
    shapes = LAYOUTS[name]()
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
    model = build_model(config(name))
    converted, report = convert_state_dict(state, model)
    assert report.complete, str(report)
    unused = {key for key in report.ignored if "project" not in key}
    assert not unused, unused
    assert len(report.loaded) + len(report.ignored) == len(shapes)
    state_dict = {key for key in model.state_dict() if not key.endswith("num_batches_tracked")}
    assert set(converted) == state_dict
