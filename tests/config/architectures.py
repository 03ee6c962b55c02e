"""What decides the weights of a shipped config, how many there are, and a training step on little data.

``python -m tests.config.architectures`` writes the table of counts, ``parameter_counts.json``, again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from detkit.config import get_cfg
from detkit.data import build_train_mapper
from sparsercnn.config import INTERACTION_KEYS

__all__ = ["CONFIGS", "COUNTS_FILE", "config_name", "count_weights", "read", "recorded_counts", "shrunk", "train_a_step"]

ROOT = Path(__file__).parents[2]
#: folders of files that are no configs of their own, as the Base-* files beside the configs
PARTS = ("backbones", "codes", "schedules")
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*/*.yaml") if not path.name.startswith("Base") and path.parent.name not in PARTS)
COUNTS_FILE = Path(__file__).parent / "parameter_counts.json"

#: keys, at any depth below MODEL, that make no difference to a training step
_NOT_TRAINED = {"WEIGHTS", "DEVICE", "PIXEL_MEAN", "PIXEL_STD", "TEST"}
#: and those that change neither names nor shapes of weights
_NO_WEIGHTS = _NOT_TRAINED | {"LOSS", "ASSIGNER", "ASSIGNERS", "AUXILIARY", "BOX_CODER", "PLUS_ONE", "IGNORE_PADDING", "OFFSET"}
_NO_WEIGHTS |= {"PRIOR_PROB", "BOX_BIAS", "START_SIZE", "FREEZE_AT", "STRIDE_IN_1X1", "RELU_BEFORE_P7"}
#: widths for tests, by the last part of their key
_SMALL = {
    "CHANNELS": 64,
    "CONV_DIM": 64,
    "DYNAMIC_CHANNELS": 8,
    "FC_DIM": 32,
    "FFN_CHANNELS": 32,
    "NUM_PROPOSALS": 20,
    "OUT_CHANNELS": 64,
    "STATIC_CHANNELS": 32,
}


@BACKBONE_REGISTRY.register()
class SmallPyramid(Backbone):
    """Levels p2 to p7 of ``MODEL.FPN.OUT_CHANNELS`` by one convolution on the image at their resolution."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> None:
        super().__init__()
        width = cfg.MODEL.FPN.OUT_CHANNELS
        self._out_feature_strides = {f"p{level}": 2**level for level in range(2, 8)}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, width)
        self.conv = nn.Conv2d(3, width, 1)

    @property
    def size_divisibility(self) -> int:
        return 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: self.conv(avg_pool2d(x, stride, ceil_mode=True)) for name, stride in self._out_feature_strides.items()}


_counts: dict[str, int] = {}
_trained: set[str] = set()


def config_name(path: Path) -> str:
    """A config by folder and name, as in ``fcos/fcos_R_50_FPN_1x``."""
    return f"{path.parent.name}/{path.stem}"


@cache
def read(path: Path) -> CfgNode:
    """A shipped config, not to be changed."""
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    return cfg


def count_weights(cfg: CfgNode) -> int:
    """Numbers in all weights, statistics of batch norms included, running normalizers not. Equal architectures are counted once."""
    architecture = _signature(cfg.MODEL, _NO_WEIGHTS)
    if architecture not in _counts:
        cfg = cfg.clone()
        cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.MODEL.BACKBONE.WEIGHTS = "meta", "", ""
        with torch.device("meta"):
            weights = build_model(cfg).state_dict()
        others = ("criterion", "assigner", "auxiliary")
        _counts[architecture] = sum(value.numel() for key, value in weights.items() if key.split(".")[0] not in others)
    return _counts[architecture]


def _signature(node: CfgNode, left_out: set[str]) -> str:
    """Equal for models that are equal but for the keys that are left out. Of anchors only the number counts for weights."""

    def kept(node: CfgNode) -> dict[str, Any]:
        return {key: kept(value) if isinstance(value, CfgNode) else value for key, value in node.items() if key not in left_out}

    return json.dumps(kept(node), sort_keys=True)


def shrunk(cfg: CfgNode) -> CfgNode:
    """The same detector with narrow heads on :class:`SmallPyramid`, so that a step takes no time."""
    cfg = cfg.clone()
    cfg.MODEL.BACKBONE.NAME = "SmallPyramid"
    for node in (cfg.MODEL.RESNETS, cfg.MODEL.BACKBONE):  # what lies below the pyramid makes no difference
        for key in node.keys() - {"NAME", "WEIGHTS"}:
            node.pop(key)
    _shrink(cfg.MODEL)
    head = cfg.MODEL.SPARSE_RCNN.HEAD
    for key in ("DYNAMIC_CHANNELS", "STATIC_CHANNELS"):
        if key not in INTERACTION_KEYS[head.INTERACTION]:
            head[key] = get_cfg().MODEL.SPARSE_RCNN.HEAD[key]
    return cfg


def _shrink(node: CfgNode) -> None:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            _shrink(value)
        elif key in _SMALL:
            node[key] = min(value, _SMALL[key])


def train_a_step(cfg: CfgNode, folder: Path) -> None:
    """Asserts that a training step on one noise image with two objects reaches every weight. Equal models are trained once.

    Args:
        cfg: what its model and mapper are.
        folder: where the image may be written.
    """
    signature = _signature(cfg.MODEL, _NOT_TRAINED)
    if signature in _trained:
        return
    cfg = cfg.clone()
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.MODEL.BACKBONE.WEIGHTS = "cpu", "", ""
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = (64,), 96, "choice"
    torch.manual_seed(0)
    model = build_model(cfg).train()
    with EventStorage():  # where Detectron2's ROI heads count
        losses = model([build_train_mapper(cfg)(_record(folder))])
    assert losses and all(loss.isfinite() for loss in losses.values()), losses
    sum(losses.values()).backward()
    trained = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    missing = [name for name, gradient in trained.items() if gradient is None or not gradient.isfinite().all()]
    assert trained and not missing, f"no gradient, or none that is finite: {missing}"
    _trained.add(signature)


def _record(folder: Path) -> dict[str, Any]:
    """A noise image of 96 x 64 pixels with two objects, their outlines and key points."""
    path = folder / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(path)
    annotations = [_annotation(box) for box in ((6.0, 5.0, 50.0, 47.0), (40.0, 20.0, 80.0, 60.0))]
    return {"file_name": str(path), "image_id": 1, "height": 64, "width": 96, "annotations": annotations}


def _annotation(box: tuple[float, float, float, float]) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    keypoints = [[x0 + (x1 - x0) * (i + 0.5) / 17, (y0 + y1) / 2, 2] for i in range(17)]
    return {
        "bbox": list(box),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": 0,
        "iscrowd": 0,
        "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
        "keypoints": [value for point in keypoints for value in point],
        "num_keypoints": 17,
    }


def recorded_counts() -> dict[str, int]:
    """The table: config name to number of weights."""
    return {name: int(count) for count, names in json.loads(COUNTS_FILE.read_text()).items() for name in names}


def write_counts(paths: Iterable[Path]) -> None:
    """Counts the configs and writes the table."""
    table: dict[str, list[str]] = {}
    for path in paths:
        table.setdefault(str(count_weights(read(path))), []).append(config_name(path))
    COUNTS_FILE.write_text(json.dumps(dict(sorted(table.items(), key=lambda item: int(item[0]))), indent=1) + "\n")


if __name__ == "__main__":
    write_counts(CONFIGS)
