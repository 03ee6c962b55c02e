"""The names and shapes in the file of every row of the model zoo.

Of files whose list of keys is known it is that; of others it is put together from the structure of their code
(:mod:`tests.checkpoint.official_layouts`), from a golden case of the same code on another network, or it is that of the installed package.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import PurePosixPath

import torch
import torchvision
from detectron2 import model_zoo as detectron2_zoo
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from detkit.config import get_cfg
from detkit.config_files import get_config_file
from detkit.model_zoo import ZooEntry
from tests.checkpoint.official_layouts import Shapes, adelaidet_fcos, dla34, fcos_core, mmdetection_head, mobilenet_v2, resnet
from tests.parity.cases import COMPACT_FOLDER, FULL_FOLDER, GoldenCase

__all__ = ["MissingGoldensError", "golden_case", "key_list"]

RESNET, MOBILE, DLA = (512, 1024, 2048), (32, 96, 320), (128, 256, 512)


class MissingGoldensError(Exception):
    """The key list is made of golden cases that this machine does not have."""


def golden_case(name: str) -> GoldenCase:
    """A case by set and name, from the full set or the compact selection."""
    folder, _, case = name.partition("/")
    for place in (FULL_FOLDER, COMPACT_FOLDER):
        if (place / folder / f"{case}.json").is_file():
            return GoldenCase(folder, case, place)
    raise MissingGoldensError(f"golden case {name} (DETKIT_GOLDENS)")


def key_list(entry: ZooEntry) -> Shapes:
    """Names and shapes of the row's file, without counters of batches."""
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(str(entry.config)))
    shapes = _BY_SOURCE[entry.source](entry, cfg)
    return {key: tuple(shape) for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}


def _network(cfg: CfgNode, style: str) -> Shapes:
    node = cfg.MODEL.RESNETS
    deformable = tuple(stage for stage, on in enumerate(node.DEFORM_ON_PER_STAGE, start=2) if on)
    return resnet(node.DEPTH, groups=node.NUM_GROUPS, width=node.WIDTH_PER_GROUP, deformable=deformable, style=style)


def _fcos_core(entry: ZooEntry, cfg: CfgNode) -> Shapes:
    if "MobileNetV2" in entry.name:
        return fcos_core(mobilenet_v2(), MOBILE, width=cfg.MODEL.FPN.OUT_CHANNELS)
    head = cfg.MODEL[cfg.MODEL.META_ARCHITECTURE].HEAD
    return fcos_core(_network(cfg, "benchmark"), RESNET, deformable=head.DCN_ON_LAST_CONV)


def _adelaidet(entry: ZooEntry, cfg: CfgNode) -> Shapes:
    head = cfg.MODEL.FCOS.HEAD
    backbone, channels = (dla34(), DLA) if "DLA_34" in entry.name else (_network(cfg, "detectron2"), RESNET)
    return adelaidet_fcos(
        backbone,
        channels,
        levels=len(cfg.MODEL.FCOS.IN_FEATURES),
        towers=head.NUM_CONVS,
        shared=head.NUM_SHARED_CONVS,
        batch_norm="BN" in head.NORM,
        deformable=head.DCN_ON_LAST_CONV,
    )


def _mmdetection(entry: ZooEntry, cfg: CfgNode) -> Shapes:
    known = _files_of_mmdetection().get(str(entry.file_name))
    if known:
        rows = json.loads((FULL_FOLDER / "mmdet_keys" / known).read_text())["state_dict"]
        return {key: shape for key, shape, *_ in rows}
    if entry.proof and entry.proof.startswith("golden:mmdet_"):
        raise MissingGoldensError("golden set mmdet_keys (DETKIT_GOLDENS)")
    if "autoassign" in entry.name:
        return mmdetection_head("autoassign")
    if entry.name.startswith("paa"):
        return mmdetection_head("atss", _network(cfg, "mmdetection"))
    channels = (128, 256, 512) if cfg.MODEL.RESNETS.DEPTH == 18 else RESNET
    shapes = mmdetection_head("retinanet", _network(cfg, "mmdetection"), channels)
    if entry.name.endswith("_ghm"):  # its losses hold running histograms
        shapes |= {f"bbox_head.loss_{loss}.{part}": (31,) for loss in ("cls", "bbox") for part in ("edges", "acc_sum")}
    return shapes


@cache
def _files_of_mmdetection() -> dict[str, str]:
    """Name of a published file -> file with its keys."""
    index = FULL_FOLDER / "mmdet_keys" / "index.json"
    rows = json.loads(index.read_text())["checkpoints"] if index.is_file() else []
    return {PurePosixPath(row["weights"]).name: row["keys_file"] for row in rows}


def _of_case(entry: ZooEntry, backbone: str, network: Shapes) -> Shapes:
    """The keys of a golden case with another network below."""
    shapes = golden_case(str(entry.proof).partition(":")[2]).state_shapes
    kept = {key: shape for key, shape in shapes.items() if not key.startswith(backbone)}
    return {f"{backbone}{key}": shape for key, shape in network.items()} | kept


def _sparse_rcnn(entry: ZooEntry, cfg: CfgNode) -> Shapes:
    shapes, count = _of_case(entry, "backbone.bottom_up.", _network(cfg, "detectron2")), cfg.MODEL.SPARSE_RCNN.NUM_PROPOSALS
    return {key: (count, *shape[1:]) if key.startswith("init_proposal") else shape for key, shape in shapes.items()}


def _dw(entry: ZooEntry, cfg: CfgNode) -> Shapes:
    shapes = _of_case(entry, "backbone.", _network(cfg, "mmdetection"))
    if cfg.MODEL.DW.HEAD.DCN_ON_LAST_CONV:
        for tower in ("cls_convs", "reg_convs"):
            shapes |= {f"bbox_head.{tower}.3.conv.conv_offset.weight": (27, 256, 3, 3), f"bbox_head.{tower}.3.conv.conv_offset.bias": (27,)}
    return shapes


def _lsnet(entry: ZooEntry, cfg: CfgNode) -> Shapes:
    return _of_case(entry, "backbone.", _network(cfg, "mmdetection"))


def _detectron2(entry: ZooEntry, cfg: CfgNode) -> Shapes:
    theirs = detectron2_zoo.get_config(f"COCO-Detection/{entry.name.removesuffix('_detectron2')}.yaml")
    theirs.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return _shapes_of(build_model(theirs))


def _torchvision(entry: ZooEntry, cfg: CfgNode) -> Shapes:
    name = "fcos_resnet50_fpn" if entry.name.startswith("fcos") else f"retinanet_resnet50_fpn{'_v2' * entry.name.endswith('v2')}"
    with torch.device("meta"):
        return _shapes_of(getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None, num_classes=91))


def _shapes_of(model: torch.nn.Module) -> Shapes:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


_BY_SOURCE: dict[str, Callable[[ZooEntry, CfgNode], Shapes]] = {
    "tianzhi0549/FCOS": _fcos_core,
    "sfzhang15/ATSS": _fcos_core,
    "aim-uofa/AdelaiDet": _adelaidet,
    "open-mmlab/mmdetection": _mmdetection,
    "PeizeSun/SparseR-CNN": _sparse_rcnn,
    "strongwolf/DW": _dw,
    "Duankaiwen/LSNet": _lsnet,
    "facebookresearch/detectron2": _detectron2,
    "pytorch/vision": _torchvision,
}
