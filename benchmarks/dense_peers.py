"""The FCOS of torchvision and of Detectron2 and our detectors, from the maps of their heads on, and the maps.

The maps and objects come from ``bench_data.py`` in the folder ``DETKIT_BENCH_DATA`` (default ``../shared/benchmarks``): an image of
800x1344, five levels (22 400 locations), 80 classes. Distances are in strides, as both peers' and our ``"relu"`` box coder have them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch import fcos as detectron2_fcos
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torchvision.models.detection import fcos as torchvision_detector
from torchvision.models.detection.image_list import ImageList

from detkit.config import get_cfg

__all__ = ["Detectron2Peer", "IMAGE_SIZE", "Maps", "NUM_CLASSES", "TorchvisionPeer", "bench_data", "objects", "our_detector"]

DATA = Path(os.environ.get("DETKIT_BENCH_DATA", Path(__file__).resolve().parents[2] / "shared" / "benchmarks"))
NUM_CLASSES = 80
IMAGE_SIZE = (800, 1333)


def bench_data() -> Any:
    """The module that makes the inputs; ends the program in words where it is missing."""
    if not (DATA / "bench_data.py").is_file():
        sys.exit(f"{DATA / 'bench_data.py'} does not exist: set DETKIT_BENCH_DATA to the folder that has it.")
    if str(DATA) not in sys.path:
        sys.path.insert(0, str(DATA))
    import bench_data as module

    return module


@dataclass(frozen=True)
class Maps:
    """Per level (B, 80, H, W) logits, (B, 4, H, W) distances in strides or deltas, (B, 1, H, W) center-ness logits."""

    logits: list[Tensor]
    boxes: list[Tensor]
    quality: list[Tensor]

    @classmethod
    def make(cls, kind: str = "fcos", *, batch: int = 2, mean: float = -4.6, std: float = 0.8) -> Maps:
        """``mean`` and ``std`` of the class logits: -4.6 and 0.8 as at the start of a training, -7 and 1.3 as at its end."""
        module = bench_data()
        logits, boxes, quality = ([torch.from_numpy(x) for x in maps] for maps in module.raw(kind, batch, mean=mean, std=std))
        if kind == "fcos":
            boxes = [x / stride for x, stride in zip(boxes, module.STRIDES, strict=True)]
        return cls(logits, boxes, quality)

    def copy(self, *, grad: bool = False) -> Maps:
        """Fresh maps, which may be written into, or get a gradient."""
        return Maps(*([x.clone().requires_grad_(grad) for x in maps] for maps in (self.logits, self.boxes, self.quality)))

    @property
    def all(self) -> list[Tensor]:
        return [*self.logits, *self.boxes, *self.quality]


def objects(count: int, batch: int = 2) -> list[Instances]:
    """So many objects in each image."""
    made = []
    for image in range(batch):
        boxes, classes = (torch.from_numpy(x) for x in bench_data().gts(count, image))
        made.append(Instances(IMAGE_SIZE, gt_boxes=Boxes(boxes), gt_classes=classes))
    return made


def our_detector(section: str, *changes: Any) -> Any:
    """A detector whose parts after the head are those of its section of the config; FCOS with normalized distances.

    Args:
        section: ``"FCOS"``, ``"ATSS"`` or ``"DW"``.
        changes: keys below the section and values.
    """
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = section, "cpu", ""
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES, cfg.MODEL.FPN.IN_FEATURES = (["res3", "res4", "res5"],) * 2
    cfg.MODEL[section].NUM_CLASSES = NUM_CLASSES
    if section == "FCOS":
        changes = ("BOX_CODER.NAME", "relu", *changes)
    cfg.merge_from_list([f"MODEL.{section}.{part}" if place % 2 == 0 else part for place, part in enumerate(changes)])
    return build_model(cfg)


class _NoBackbone(nn.Module):
    out_channels = 256
    size_divisibility = 32
    padding_constraints: dict[str, int] = {}  # noqa: RUF012 - as Detectron2's backbones have it

    def output_shape(self) -> dict[str, ShapeSpec]:
        strides = bench_data().STRIDES
        return {f"p{level + 3}": ShapeSpec(channels=256, stride=stride) for level, stride in enumerate(strides)}


class TorchvisionPeer:
    """torchvision's FCOS with its own thresholds, score 0.2 and IoU 0.6."""

    def __init__(self) -> None:
        self.model = torchvision_detector.FCOS(_NoBackbone(), num_classes=NUM_CLASSES)

    def detect(self, maps: Maps) -> list[dict[str, Tensor]]:
        """Detections of every image."""
        outputs, anchors, per_level = self._inputs(maps)
        split = {name: list(value.split(per_level, dim=1)) for name, value in outputs.items()}
        anchors = [list(each.split(per_level)) for each in anchors]
        return self.model.postprocess_detections(split, anchors, [IMAGE_SIZE] * len(maps.logits[0]))

    def losses(self, maps: Maps, gt: Sequence[Instances]) -> dict[str, Tensor]:
        """The losses of a batch."""
        outputs, anchors, per_level = self._inputs(maps)
        targets = [{"boxes": x.gt_boxes.tensor, "labels": x.gt_classes} for x in gt]
        return self.model.compute_loss(targets, outputs, anchors, per_level)

    def _inputs(self, maps: Maps) -> tuple[dict[str, Tensor], list[Any], list[int]]:
        batch = len(maps.logits[0])
        height, width = maps.logits[0].shape[-2] * 8, maps.logits[0].shape[-1] * 8
        named = {"cls_logits": maps.logits, "bbox_regression": [x.relu() for x in maps.boxes], "bbox_ctrness": maps.quality}
        # as the last lines of its heads
        outputs = {name: torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in values], dim=1) for name, values in named.items()}
        images = ImageList(torch.empty(batch, 3, height, width, device="meta"), [IMAGE_SIZE] * batch)
        anchors = self.model.anchor_generator(images, maps.boxes)
        return outputs, anchors, [x.shape[-2] * x.shape[-1] for x in maps.logits]


class Detectron2Peer:
    """Detectron2's FCOS with its own thresholds, score 0.2 and IoU 0.6."""

    def __init__(self) -> None:
        features = list(_NoBackbone().output_shape())
        mean = (0.0, 0.0, 0.0)
        self.model = detectron2_fcos.FCOS(
            backbone=_NoBackbone(), head=nn.Identity(), head_in_features=features, num_classes=NUM_CLASSES, pixel_mean=mean, pixel_std=mean
        )

    def detect(self, maps: Maps) -> list[Instances]:
        """Detections of every image. Writes into the maps."""
        images = SimpleNamespace(image_sizes=[IMAGE_SIZE] * len(maps.logits[0]))
        return self.model.forward_inference(images, maps.boxes, [maps.logits, maps.boxes, maps.quality])

    def losses(self, maps: Maps, gt: Sequence[Instances]) -> dict[str, Tensor]:
        """The losses of a batch."""
        with EventStorage():
            return self.model.forward_training(None, maps.boxes, [maps.logits, maps.boxes, maps.quality], list(gt))
