"""Models with published weights' layouts give the outputs of their codes.

torchvision's and Detectron2's detectors run beside ours with the same weights. AdelaiDet's real-time FCOS and tianzhi0549's MobileNetV2
cannot be run here: what they compute is written down below once more, as functions of the official state dict, layer by layer from the
published architectures (DLA, section 4 and figure 3; MobileNetV2, table 2; FCOS, figure 2).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from detectron2 import model_zoo
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.modeling import build_model
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, group_norm, interpolate, max_pool2d, relu, relu6
from torch.testing import assert_close

from detkit.checkpoint import convert_state_dict
from detkit.export import Agreement, compare_outputs
from tests.config.architectures import recorded_counts

from .official_layouts import adelaidet_fcos, dla34, fcos_core, mobilenet_v2, procedural
from .test_published_layouts import DLA, MOBILE, config

Weights = dict[str, Tensor]
IDS = [category["id"] for category in COCO_CATEGORIES if category["isthing"]]


def our_model(name: str, weights: Weights, *options: Any) -> nn.Module:
    """The model of a config with published weights, read as any checkpoint is."""
    cfg = config(name)
    cfg.merge_from_list(list(options))
    model = build_model(cfg).eval()
    converted, report = convert_state_dict(weights, model)
    assert report.complete, str(report)
    model.load_state_dict(converted, strict=False)
    return model


def images(size: int = 128) -> Tensor:
    return (torch.rand(3, size, size + 32, generator=torch.Generator().manual_seed(0)) * 255).round()


# --- torchvision


def torchvision_detector(name: str) -> nn.Module:
    """With weights that find something, and none of the numbers that no category of COCO has."""
    builder = getattr(torchvision.models.detection, name)
    model = builder(weights=None, weights_backbone=None, num_classes=91, min_size=128, max_size=400).eval()
    weights = {
        key: value for key, value in procedural({k: tuple(v.shape) for k, v in model.state_dict().items()}).items() if "num_b" not in key
    }
    head = "head.classification_head.cls_logits."
    weights[head + "weight"] *= 0.05
    of_class = weights[head + "bias"].view(-1, 91)
    of_class[:] = -1.0 if "fcos" in name else -3.0
    of_class[:, [number for number in range(91) if number not in IDS]] = -50.0
    weights["head.regression_head.bbox_reg.weight"] *= 0.1
    model.load_state_dict(weights, strict=False)
    if name == "retinanet_resnet50_fpn":  # as torchvision does for its released weights
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
    return model


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("fcos_resnet50_fpn", "fcos/fcos_R_50_FPN_1x_torchvision"),
        ("retinanet_resnet50_fpn", "atss/retinanet_R_50_FPN_1x_torchvision"),
        ("retinanet_resnet50_fpn_v2", "atss/retinanet_R_50_FPN_1x_torchvision_v2"),
    ],
)
@torch.no_grad()
def test_torchvisions_detectors(name: str, ours: str) -> None:
    theirs, image = torchvision_detector(name), images()
    expected = theirs([image / 255])[0]
    weights = {key: value for key, value in theirs.state_dict().items() if "num_batches" not in key}
    found = our_model(ours, weights)([{"image": image, "height": 128, "width": 160}])[0]["instances"]
    assert len(found) == len(expected["scores"]) > 20
    assert_close(found.scores, expected["scores"], rtol=1e-4, atol=1e-5)
    # one by one, since scores that differ in the last digit may stand in another order
    agreement = Agreement()
    classes = torch.tensor(IDS)[found.pred_classes]
    compare_outputs(
        _outputs(found.pred_boxes.tensor, found.scores, classes),
        _outputs(expected["boxes"], expected["scores"], expected["labels"]),
        agreement,
    )
    assert agreement.unmatched == 0 and agreement.box < 0.02 and agreement.score < 1e-4


def _outputs(boxes: Tensor, scores: Tensor, classes: Tensor) -> dict[str, Tensor]:
    return {"boxes": boxes[None], "scores": scores[None], "classes": classes[None], "counts": torch.tensor([len(scores)])}


# --- Detectron2


@torch.no_grad()
def test_detectron2s_retinanet() -> None:
    cfg = model_zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    theirs = build_model(cfg).eval()
    weights = procedural({name: tuple(value.shape) for name, value in theirs.state_dict().items()})
    weights |= {name: value for name, value in theirs.state_dict().items() if "cell_anchors" in name}
    weights["head.cls_score.weight"] *= 0.002
    weights["head.cls_score.bias"][:] = -3.0
    weights["head.bbox_pred.weight"] *= 0.01
    theirs.load_state_dict(weights, strict=False)
    inputs = [{"image": images(), "height": 128, "width": 160}]
    expected = theirs(inputs)[0]["instances"]
    ours = our_model("atss/retinanet_R_50_FPN_1x_detectron2", theirs.state_dict())
    found = ours(inputs)[0]["instances"]
    assert len(found) == len(expected) > 20
    assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    assert_close(found.pred_classes, expected.pred_classes)
    assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=1e-4, atol=1e-2)


# --- written down once more


class Network:
    """Functions of an official state dict. ``w`` are the weights below a prefix."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        self.w = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}

    def conv(self, name: str, x: Tensor, *, stride: int = 1, groups: int = 1) -> Tensor:
        weight = self.w[f"{name}.weight"]
        return conv2d(x, weight, self.w.get(f"{name}.bias"), stride, weight.shape[-1] // 2, groups=groups)

    def norm(self, name: str, x: Tensor) -> Tensor:
        return batch_norm(x, *(self.w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    def unit(self, conv: str, norm: str, x: Tensor, **options: int) -> Tensor:
        return self.norm(norm, self.conv(conv, x, **options))


def dla_maps(net: Network, x: Tensor) -> list[Tensor]:
    """Maps of levels 3 to 5 of DLA-34."""
    x = relu(net.unit("base_layer.0", "base_layer.1", x))
    x = relu(net.unit("level0.0", "level0.1", x))
    x = relu(net.unit("level1.0", "level1.1", x, stride=2))
    maps = []
    for level, depth in ((2, 1), (3, 2), (4, 2), (5, 1)):
        # the input joins at the root of the level from the third on
        x = dla_tree(net, f"level{level}", x, depth, stride=2, joins=[max_pool2d(x, 2)] if level > 2 else [])
        maps.append(x)
    return maps[1:]


def dla_tree(net: Network, name: str, x: Tensor, depth: int, *, stride: int, joins: list[Tensor]) -> Tensor:
    if depth > 1:
        first = dla_tree(net, f"{name}.tree1", x, depth - 1, stride=stride, joins=[])
        return dla_tree(net, f"{name}.tree2", first, depth - 1, stride=1, joins=[*joins, first])
    bottom = max_pool2d(x, stride) if stride > 1 else x
    has_projection = f"{name}.project.0.weight" in net.w
    shortcut = net.unit(f"{name}.project.0", f"{name}.project.1", bottom) if has_projection else bottom
    first = dla_block(net, f"{name}.tree1", x, shortcut, stride)
    second = dla_block(net, f"{name}.tree2", first, first, 1)
    return relu(net.unit(f"{name}.root.conv", f"{name}.root.bn", torch.cat([second, first, *joins], 1)))


def dla_block(net: Network, name: str, x: Tensor, shortcut: Tensor, stride: int) -> Tensor:
    inner = relu(net.unit(f"{name}.conv1", f"{name}.bn1", x, stride=stride))
    return relu(net.unit(f"{name}.conv2", f"{name}.bn2", inner) + shortcut)


def pyramid(net: Network, maps: list[Tensor]) -> list[Tensor]:
    """P3 to P5."""
    merged: list[Tensor] = []
    for level in (5, 4, 3):
        lateral = net.conv(f"fpn_lateral{level}", maps[level - 3])
        merged.insert(0, lateral + interpolate(merged[0], scale_factor=2.0) if merged else lateral)
    return [net.conv(f"fpn_output{level}", x) for level, x in zip((3, 4, 5), merged, strict=True)]


def real_time_head(net: Network, features: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Class logits, distances in strides and center-ness logits of each level."""

    def tower(name: str, x: Tensor, level: int) -> Tensor:
        for number in range(4):
            if f"{name}.{3 * number}.weight" not in net.w:
                return x
            x, norm = net.conv(f"{name}.{3 * number}", x), f"{name}.{3 * number + 1}"
            per_level = f"{norm}.{level}.weight" in net.w
            x = relu(net.norm(f"{norm}.{level}", x) if per_level else group_norm(x, 32, net.w[f"{norm}.weight"], net.w[f"{norm}.bias"]))
        return x

    outputs = []
    for level, feature in enumerate(features):
        shared = tower("share_tower", feature, level)
        cls, box = tower("cls_tower", shared, level), tower("bbox_tower", shared, level)
        distances = relu(net.w[f"scales.{level}.scale"] * net.conv("bbox_pred", box))
        outputs.append((net.conv("cls_logits", cls), distances, net.conv("ctrness", box)))
    return outputs


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fcos_rt_DLA_34_FPN_4x_adelaidet", {}),
        ("fcos_rt_DLA_34_FPN_4x_adelaidet_bn_head", {"batch_norm": True}),
        ("fcos_rt_DLA_34_FPN_4x_adelaidet_shared", {"towers": 0, "shared": 4}),
        ("fcos_rt_DLA_34_FPN_4x_adelaidet_shared_bn_head", {"towers": 0, "shared": 4, "batch_norm": True}),
    ],
)
@torch.no_grad()
def test_real_time_fcos(name: str, options: dict[str, Any]) -> None:
    weights = procedural(adelaidet_fcos(dla34(), DLA, levels=3, **options))
    model, x = our_model(f"fcos/{name}", weights), images()[None] / 128 - 1
    maps = dla_maps(Network(weights, "backbone.bottom_up."), x)
    levels = pyramid(Network(weights, "backbone."), maps)
    features = model.backbone(x)
    for level, expected in zip(("p3", "p4", "p5"), levels, strict=True):
        assert_close(features[level], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    raw = model.head(levels)
    for level, expected in enumerate(real_time_head(Network(weights, "proposal_generator.fcos_head."), levels)):
        for ours, theirs in zip((raw.logits[level], raw.boxes[level].relu(), raw.quality[level]), expected, strict=True):
            assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", ["fcos_rt_DLA_34_FPN_4x_adelaidet", "fcos_rt_DLA_34_FPN_4x_adelaidet_shared_bn_head"])
def test_real_time_fcos_has_as_many_weights_as_the_official_one(name: str) -> None:
    """But for the two projections of DLA-34 that nothing reads."""
    options: dict[str, Any] = {"towers": 0, "shared": 4, "batch_norm": True} if "shared" in name else {}
    shapes = adelaidet_fcos(dla34(), DLA, levels=3, **options)
    unused = ("backbone.bottom_up.level3.project.", "backbone.bottom_up.level4.project.")
    used = {key: shape for key, shape in shapes.items() if not key.startswith(unused)}
    counters = sum(key.endswith("running_mean") for key in used)  # of the batches that a norm has seen
    assert recorded_counts()[f"fcos/{name}"] == sum(torch.Size(shape).numel() for shape in used.values()) + counters


@torch.no_grad()
def test_mobilenet_of_tianzhis_fcos() -> None:
    weights = procedural(fcos_core(mobilenet_v2(), MOBILE))
    model, x = our_model("fcos/fcos_MobileNetV2_FPN_1x", weights), images()[None] / 128 - 1
    maps = model.backbone.bottom_up(x)
    net = Network(weights, "backbone.body.features.")
    x = relu6(net.unit("0.0", "0.1", x, stride=2))
    index, wanted = 1, {6: "res3", 13: "res4", 17: "res5"}
    for widen, repeats, first_stride in ((1, 1, 1), (6, 2, 2), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1)):
        for repeat in range(repeats):
            inner, name, layer = x, f"{index}.conv", 0
            if widen > 1:
                inner, layer = relu6(net.unit(f"{name}.0", f"{name}.1", inner)), 3
            stride = first_stride if repeat == 0 else 1
            inner = relu6(net.unit(f"{name}.{layer}", f"{name}.{layer + 1}", inner, stride=stride, groups=inner.shape[1]))
            inner = net.unit(f"{name}.{layer + 3}", f"{name}.{layer + 4}", inner)
            x = x + inner if inner.shape == x.shape and stride == 1 else inner
            if index in wanted:
                assert_close(maps[wanted[index]], x, rtol=1e-3, atol=1e-4 * float(x.abs().max()))
            index += 1
    assert index == 18
