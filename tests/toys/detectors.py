"""Detectors small enough for unit tests, on a pyramid of three strided convolutions."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from detkit.config import get_cfg
from sparsercnn import SparseRCNN
from sparsercnn.config import INTERACTION_KEYS

LEVELS = ("p3", "p4", "p5")


@BACKBONE_REGISTRY.register()
class TinyPyramid(Backbone):
    """Levels p3, p4, p5 of 32 channels from three plain convolutions."""

    def __init__(self, cfg: Any = None, input_shape: ShapeSpec | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=8, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(32, 32, 3, stride=2, padding=1) for _ in range(2))
        self._out_features = list(LEVELS)
        self._out_feature_strides = {"p3": 8, "p4": 16, "p5": 32}
        self._out_feature_channels = dict.fromkeys(LEVELS, 32)

    @property
    def size_divisibility(self) -> int:
        return 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = [self.stem(x).relu()]
        for conv in self.down:
            features.append(conv(features[-1]).relu())
        return dict(zip(LEVELS, features, strict=True))


def tiny_cfg(method: str = "FCOS") -> Any:
    """A config of ``method`` on the tiny pyramid, 3 classes, on the CPU."""
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = method
    cfg.MODEL.BACKBONE.NAME = "TinyPyramid"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [128.0] * 3, [64.0] * 3
    node = cfg.MODEL[method.upper()]
    node.NUM_CLASSES = 3
    node.IN_FEATURES = list(LEVELS)
    node.HEAD.CHANNELS = 32
    node.HEAD.NUM_CONVS = 1
    cfg.MODEL.ASSIGNERS.FCOS.SIZES_OF_INTEREST = [64, 128]
    return cfg


def tiny_sparse_cfg(*changes: Any) -> Any:
    """Three classes, 12 proposals, two stages of 32 channels, on the CPU; ``changes`` are keys below MODEL.SPARSE_RCNN and values."""
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "SparseRCNN"
    cfg.MODEL.BACKBONE.NAME = "TinyPyramid"
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [128.0] * 3, [64.0] * 3
    node = cfg.MODEL.SPARSE_RCNN
    node.NUM_CLASSES, node.NUM_PROPOSALS, node.NUM_STAGES = 3, 12, 2
    node.IN_FEATURES = list(LEVELS)
    node.HEAD.FFN_CHANNELS = 32
    names = [name if name.startswith(("MODEL.", "TEST.DETECTIONS_PER_IMAGE")) else f"MODEL.SPARSE_RCNN.{name}" for name in changes[0::2]]
    cfg.merge_from_list([part for item in zip(names, changes[1::2], strict=True) for part in item])
    for key in INTERACTION_KEYS.get(node.HEAD.INTERACTION, ()):  # small; the sizes of other interactions may not be set
        if f"MODEL.SPARSE_RCNN.HEAD.{key}" not in names:
            node.HEAD[key] = {"DYNAMIC_CHANNELS": 8, "STATIC_CHANNELS": 32}[key]
    return cfg


def build_tiny(*changes: Any) -> SparseRCNN:
    """The detector of :func:`tiny_sparse_cfg`."""
    model = build_model(tiny_sparse_cfg(*changes))
    assert isinstance(model, SparseRCNN)
    return model


def random_inputs(num_images: int = 2, *, size: tuple[int, int] = (96, 128), num_boxes: int = 3, seed: int = 0) -> list[dict[str, Any]]:
    """Noise images with random boxes of 3 classes, as Detectron2's mapper hands them over."""
    rng = torch.Generator().manual_seed(seed)
    height, width = size
    inputs = []
    for _ in range(num_images):
        corners = torch.rand(num_boxes, 2, generator=rng) * torch.tensor([width * 0.6, height * 0.6])
        sides = 12 + torch.rand(num_boxes, 2, generator=rng) * 40
        instances = Instances(size)
        instances.gt_boxes = Boxes(torch.cat([corners, corners + sides], dim=1))
        instances.gt_boxes.clip(size)
        instances.gt_classes = torch.randint(0, 3, (num_boxes,), generator=rng)
        image = torch.randint(0, 256, (3, *size), generator=rng, dtype=torch.uint8)
        inputs.append({"image": image, "instances": instances, "height": height, "width": width})
    return inputs
