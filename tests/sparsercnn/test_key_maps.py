"""Published key lists load with nothing left over; backbones trained without labels fill the ResNet."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.modeling import build_model
from torch import Tensor, nn

from detkit.checkpoint import convert_state_dict, load_weights
from detkit.config import get_cfg
from tests.parity.cases import COMPACT_FOLDER, FULL_FOLDER, GoldenCase, find_cases

CONFIGS = Path(__file__).parents[2] / "configs" / "sparsercnn"
RELEASED = {
    "sparse-rcnn_r50_fpn_1x_coco": "sparsercnn_R_50_FPN_100pro_1x_mmdet",
    "sparse-rcnn_r50_fpn_300-proposals_crop-ms-480-800-3x_coco": "sparsercnn_R_50_FPN_300pro_crop_3x",
    "sparse-rcnn_r101_fpn_ms-480-800-3x_coco": "sparsercnn_R_101_FPN_100pro_3x",
    "sparse-rcnn_r101_fpn_300-proposals_crop-ms-480-800-3x_coco": "sparsercnn_R_101_FPN_300pro_crop_3x",
}


def meta_model(config: str) -> nn.Module:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / f"{config}.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", ""])
    with torch.device("meta"):
        return build_model(cfg)


def check_complete(shapes: dict[str, list[int]], model: nn.Module) -> None:
    """Every key of the source has its place, every weight of ours is set, and the number of parameters is the same."""
    with torch.device("meta"):
        converted, report = convert_state_dict({key: torch.empty(shape) for key, shape in shapes.items()}, model)
    assert report.complete, str(report)
    assert len(report.loaded) + len(report.ignored) == len(shapes)
    assert all(key.endswith("num_batches_tracked") for key in report.ignored)
    assert set(converted) == set(model.state_dict())
    published = sum(torch.Size(shape).numel() for key, shape in shapes.items() if not key.endswith("num_batches_tracked"))
    assert sum(value.numel() for value in model.state_dict().values()) == published


@pytest.mark.parametrize("name", RELEASED)
def test_released_mmdetection_weights(name: str) -> None:
    path = FULL_FOLDER / "mmdet_keys" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"key lists are missing: {path.parent} (DETKIT_GOLDENS)")
    check_complete({key: shape for key, shape, *_ in json.loads(path.read_text())["state_dict"]}, meta_model(RELEASED[name]))


OFFICIAL = [case for case in find_cases(sets=("sparsercnn",)) if "init_proposal_boxes.weight" in case.state_shapes]


@pytest.mark.parametrize("case", OFFICIAL, ids=lambda case: case.id)
def test_official_key_list(case: GoldenCase) -> None:
    depth = 101 if any("res4.22." in key for key in case.state_shapes) else 50
    proposals = case.state_shapes["init_proposal_boxes.weight"][0]
    config = f"sparsercnn_R_{depth}_FPN_{proposals}pro_{'crop_' if proposals == 300 else ''}3x"
    check_complete({key: list(shape) for key, shape in case.state_shapes.items()}, meta_model(config))


def test_there_is_an_official_key_list() -> None:
    if not FULL_FOLDER.is_dir() and not (COMPACT_FOLDER / "sparsercnn").is_dir():
        pytest.skip(f"golden cases are missing: {FULL_FOLDER} (DETKIT_GOLDENS)")
    assert OFFICIAL


def small_model() -> nn.Module:
    """ResNet-18 below a pyramid of 16 channels."""
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / "sparsercnn_R_50_FPN_300pro_crop_3x_detco.yaml"))
    node = cfg.MODEL.RESNETS
    node.DEPTH, node.RES2_OUT_CHANNELS, node.NORM = 18, 64, "BN"
    cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.SPARSE_RCNN.NUM_PROPOSALS = 16, 4
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    return build_model(cfg)


def moco(network: dict[str, Tensor]) -> dict[str, object]:
    """As facebookresearch/moco and DetCo save: query and key encoder, their projections, the queue."""
    encoders = {f"module.encoder_{x}.{key}": value for x in "qk" for key, value in network.items() if not key.startswith("fc.")}
    others = {"module.encoder_q.fc.0.weight": torch.ones(2, 2), "module.queue": torch.ones(4, 4), "module.queue_ptr": torch.ones(1)}
    return {"epoch": 200, "arch": "resnet50", "state_dict": encoders | others, "optimizer": {"state": {}}}


def scrl(network: dict[str, Tensor]) -> dict[str, object]:
    """As kakaobrain/scrl saves: the children by number, the projection, the other networks."""
    numbers = {"conv1": 0, "bn1": 1} | {f"layer{i}": i + 3 for i in range(1, 5)}
    encoder = {
        f"encoder.{numbers[key.split('.')[0]]}.{key.partition('.')[2]}": value
        for key, value in network.items()
        if not key.startswith("fc.")
    }
    online = encoder | {"projector.layers.0.weight": torch.ones(2, 2)}
    return {
        "tag": "1000",
        "epoch": 1000,
        "online_network_state_dict": online,
        "target_network_state_dict": {"encoder.0.weight": torch.ones(1)},
    }


@pytest.mark.parametrize(("save", "source"), [(moco, "MoCo or DetCo ResNet"), (scrl, "BYOL or SCRL ResNet")])
def test_backbones_trained_without_labels(save, source: str, tmp_path: Path) -> None:
    network = torchvision.models.resnet18(weights=None).eval()
    torch.save(save(network.state_dict()), tmp_path / "weights.pth")
    model = small_model()
    report = load_weights(model, str(tmp_path / "weights.pth"))
    assert report.source == source and report.backbone_only and not report.unexpected and not report.mismatched
    check_same_features(model.eval(), network)


def test_backbones_converted_for_detectron2(tmp_path: Path) -> None:
    """The .pkl that MoCo's and DetCo's converter writes: Detectron2's names, numpy arrays."""
    network = torchvision.models.resnet18(weights=None).eval()
    model = small_model()
    converted, _ = convert_state_dict(network.state_dict(), model)
    arrays = {key.removeprefix("backbone.bottom_up."): value.numpy() for key, value in converted.items()}
    path = tmp_path / "detco_AA.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "MOCO", "matching_heuristics": True}))
    report = load_weights(model, path)
    assert report.source == "Detectron2 ImageNet ResNet" and not report.unexpected
    check_same_features(model.eval(), network)


def check_same_features(model: nn.Module, network: nn.Module) -> None:
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        stages = nn.Sequential(*list(network.children())[:-2])
        torch.testing.assert_close(model.backbone.bottom_up(image)["res5"], stages(image), rtol=1e-4, atol=1e-4)
