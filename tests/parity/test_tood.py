"""TOOD's head, alone and in whole detectors, against mmdetection."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from detkit.checkpoint import convert_state_dict
from detkit.checkpoint.key_maps.mmdetection import MMDETECTION
from detkit.config import get_cfg
from detkit.dense.heads import TOODHead
from detkit.geometry import Grid, ltrb_to_boxes
from detkit.layers import Tower
from detkit.structures import DenseOutputs

from .cases import GoldenCase, find_cases, procedural_state_dict
from .compare import Recorder
from .models import image_inputs, run_network
from .sources import CONFIGS, set_network

RecorderOf = Callable[[GoldenCase], Recorder]
_CASES = find_cases(sets=("mmdet_tood",))


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.id)
def test_case(case: GoldenCase, recorder_of: RecorderOf) -> None:
    check = {"head": _check_head, "detector": _check_detector}[case.kind]
    check(case, recorder_of(case))


def _check_head(case: GoldenCase, recorder: Recorder) -> None:
    head = _head(case)
    names = {MMDETECTION.rename(key): value for key, value in procedural_state_dict(case).items()}
    head.load_state_dict({name.removeprefix("head."): value for name, value in names.items()})
    features = [case.tensor(f"feat{level}").requires_grad_() for level in range(len(head.scales))]
    inside = _Inside(head)
    outputs = head(features)

    maps = inside.maps | {"prob": [x.sigmoid() for x in outputs.logits], "box": _boxes(head, outputs)}
    assert {re.sub(r"\d+$", "", name) for name in case.meta["outputs"]} == {*maps, "functional", "grad_norms", "grad_feat_norms"}
    for name, values in maps.items():
        _compare_maps(recorder, case, name, values)
    kept = [int((a == b).all(1).sum()) for a, b in zip(maps["box"], maps["box_before"], strict=True)]
    assert kept == case.meta["boxes_kept_unsampled_per_level"]

    functional = sum((p * _noise(case, "wp", i, p)).sum() + (b * _noise(case, "wb", i, b)).sum() for i, (p, b) in _levels(maps))
    recorder.close("losses", "functional", functional, case.tensor("functional"))
    functional.backward()
    parameters = dict(head.named_parameters())
    norms = [parameters[MMDETECTION.rename(name).removeprefix("head.")].grad.norm() for name in case.meta["grad_norm_names"]]
    recorder.close("gradients", "grad_norms", torch.stack(norms), case.tensor("grad_norms"))
    recorder.close("gradients", "grad_feat_norms", torch.stack([x.grad.norm() for x in features]), case.tensor("grad_feat_norms"))


@torch.no_grad()
def _check_detector(case: GoldenCase, recorder: Recorder) -> None:
    cfg = _cfg(case)
    model = build_model(cfg).eval()
    converted, report = convert_state_dict(procedural_state_dict(case), model)
    assert report.complete, str(report)
    assert len(report.loaded) + len(report.ignored) == len(case.state_shapes)
    assert all(key.endswith("num_batches_tracked") for key in report.ignored)
    model.load_state_dict(converted, strict=False)
    batch, pyramid, outputs, sizes = run_network(model, image_inputs(case, cfg))
    _compare_maps(recorder, case, "batch", [batch], numbered=False)
    maps = {"fpn": pyramid, "prob": [x.sigmoid() for x in outputs.logits], "box": _boxes(model.head, outputs)}
    for name, values in maps.items():
        _compare_maps(recorder, case, name, values)
    for i, found in enumerate(model.detect(outputs, sizes)):
        boxes, scores, classes = (case.tensor(f"det_{name}{i}") for name in ("boxes", "scores", "classes"))
        actual = (found.pred_boxes.tensor, found.scores, found.pred_classes)
        recorder.same_detections(f"image {i}", actual, (boxes, scores, classes))
        x, y = map(float, re.search(r"= \((.*?), (.*?)\)", case.meta["outputs"][f"det_boxes{i}_rescaled"]).groups())
        rescaled = (actual[0] / torch.tensor([x, y, x, y]), *actual[1:])
        recorder.same_detections(f"image {i} rescaled", rescaled, (case.tensor(f"det_boxes{i}_rescaled"), scores, classes))


class _Inside:
    """What the parts of a head give, per level, by the names of the cases."""

    def __init__(self, head: TOODHead) -> None:
        self.maps: dict[str, list[Tensor]] = {"box_before": []}
        parts: dict[str, nn.Module] = {
            "att_cls": head.cls_decomposition.attention,
            "att_reg": head.box_decomposition.attention,
            "cls_feat": head.cls_decomposition,
            "reg_feat": head.box_decomposition,
            "logits": head.cls_score,
            "cls_prob_logit": head.alignment,
            "reg_raw": head.box_pred,
            "offset": head.offset_pred,
        }
        for name, part in parts.items():
            self.maps[name] = []
            part.register_forward_hook(lambda module, args, value, kept=self.maps[name]: kept.append(value))
        self._head, self._coarse_boxes = head, head.coarse_boxes
        head.coarse_boxes = self._keep_coarse_boxes  # type: ignore[method-assign]

    def _keep_coarse_boxes(self, raw: Tensor, scale: nn.Module, grid: Grid) -> Tensor:
        boxes = self._coarse_boxes(raw, scale, grid)
        self.maps["box_before"].append(boxes.transpose(1, 2).unflatten(2, grid.sizes[0]))
        return boxes


def _head(case: GoldenCase) -> TOODHead:
    settings = case.hyperparameters["model"]
    return TOODHead(
        in_channels=settings["in_channels"],
        num_classes=settings["num_classes"],
        num_levels=len(settings["anchor_generator"]["strides"]),
        tower=Tower(
            channels=settings["feat_channels"],
            num_convs=settings["stacked_convs"],
            bias=False,
            deformable=range(settings.get("num_dcn", 0)),
            offset_groups=4,
        ),
        coarse_box={"anchor_free": "point", "anchor_based": "anchor"}[settings["anchor_type"]],
        anchor_scale=settings["anchor_generator"]["octave_base_scale"],
        grid_offset=0.0,
    )


def _cfg(case: GoldenCase) -> CfgNode:
    """The shipped config with what the case states."""
    model = case.hyperparameters["model"]
    head, test = model["bbox_head"], model["test_cfg"]
    cfg = get_cfg()
    kind = "_anchor" if head["anchor_type"] == "anchor_based" else ""
    cfg.merge_from_file(str(CONFIGS / "dw" / f"tood_R_50_FPN_1x_mmdet{kind}.yaml"))
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", "cpu"
    set_network(cfg, case.state_shapes)
    node = cfg.MODEL.DW
    node.NUM_CLASSES, node.HEAD.NUM_CONVS, node.HEAD.CHANNELS = head["num_classes"], head["stacked_convs"], head["feat_channels"]
    node.TEST.SCORE_THRESH, node.TEST.TOPK_PER_LEVEL = test["score_thr"], test["nms_pre"]
    node.TEST.NMS_THRESH, cfg.TEST.DETECTIONS_PER_IMAGE = test["nms"]["iou_threshold"], test["max_per_img"]
    return cfg


def _boxes(head: TOODHead, outputs: DenseOutputs) -> list[Tensor]:
    """Boxes xyxy in strides (B, 4, H, W) per level."""
    found = []
    for ltrb, size in zip(outputs.boxes, outputs.level_sizes, strict=True):
        points = Grid((size,), (1,), head.grid_offset, ltrb.device).points.reshape(*size, 2)
        found.append(ltrb_to_boxes(ltrb.movedim(1, -1), points).movedim(-1, 1))
    return found


def _compare_maps(recorder: Recorder, case: GoldenCase, name: str, values: list[Tensor], *, numbered: bool = True) -> None:
    for level, value in enumerate(values):
        stored = case.sampled(f"{name}{level}" if numbered else name)
        assert stored is not None, f"{case.id}: {name} of level {level} is missing"
        index, expected = stored
        flat = value.flatten()
        recorder.close("raw", f"{name}{level}", flat if index is None else flat[index], expected)


def _levels(maps: dict[str, list[Tensor]]) -> list[tuple[int, tuple[Tensor, Tensor]]]:
    return list(enumerate(zip(maps["prob"], maps["box"], strict=True)))


def _noise(case: GoldenCase, name: str, level: int, like: Tensor) -> Tensor:
    seed = zlib.crc32(f"{case.meta['weights']['seed']}:{name}{level}".encode())
    return torch.from_numpy(np.random.RandomState(seed).randn(*like.shape).astype(np.float32))
