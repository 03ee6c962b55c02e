"""torchvision's FCOS, as :mod:`peers.worker` runs it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torchvision
from inputs import NUM_CLASSES, SIZE, dense_maps, objects
from torch import Tensor, nn
from torchvision.models.detection import FCOS, fcos_resnet50_fpn

__all__ = ["CASES", "build"]


@lru_cache(maxsize=1)
def build() -> FCOS:
    """On ResNet-50, random weights. Scores, which are roots, have to exceed 0.2."""
    torch.manual_seed(0)
    return fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=NUM_CLASSES)


def targets(count: int, size: tuple[int, int] = SIZE, batch: int = 2) -> list[dict[str, Tensor]]:
    pairs = [objects(count, image, size) for image in range(batch)]
    return [{"boxes": boxes, "labels": classes} for boxes, classes in pairs]


def _anchors(model: FCOS, maps: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
    from torchvision.models.detection.image_list import ImageList

    images = ImageList(torch.empty(len(maps[0]), 3, *size), [size] * len(maps[0]))
    return model.anchor_generator(images, maps)


def _rows(maps: list[Tensor]) -> list[Tensor]:
    return [x.permute(0, 2, 3, 1).flatten(1, 2) for x in maps]


def losses(method: str, count: int, size: tuple[int, int] = SIZE) -> Callable[[], object]:
    """From the maps of a head and the objects of a batch of 2 to the gradient of the maps."""
    size = (size[0], size[1])
    model = build().train()
    logits, boxes, quality = dense_maps("distances", size=size)
    leaves = [x.requires_grad_() for x in (*logits, *boxes, *quality)]
    given = targets(count, size)
    per_level = [x.shape[2] * x.shape[3] for x in logits]

    def run() -> None:
        names = ("cls_logits", "bbox_regression", "bbox_ctrness")
        outputs = {name: torch.cat(_rows(maps), 1) for name, maps in zip(names, (logits, boxes, quality), strict=True)}
        found = model.compute_loss(given, outputs, _anchors(model, logits, size), per_level)
        torch.autograd.grad(sum(found.values()), leaves)

    return run


def postprocessing(method: str, scores: str) -> Callable[[], object]:
    """From the maps of a head to the detections of one image."""
    model = build().eval()
    maps = dense_maps("distances", scores=scores, batch=1)

    @torch.no_grad()
    def run() -> object:
        logits, boxes, quality = (_rows(x) for x in maps)
        anchors = _anchors(model, maps[0], SIZE)
        split = [list(each.split([len(x[0]) for x in logits])) for each in anchors]
        outputs = {"cls_logits": logits, "bbox_regression": boxes, "bbox_ctrness": quality}
        return model.postprocess_detections(outputs, split, [SIZE])

    return run


def detector(
    method: str, *, training: bool, size: tuple[int, int], batch: int = 1, device: str = "cpu"
) -> tuple[nn.Module, Callable[[], Any]]:
    """A detector, and what it makes of images and objects on the host: the sum of the losses, or the detections.

    The model's own resizing finds the images as large as it wants them.
    """
    model = build().train(training).to(device)
    model.transform.min_size, model.transform.max_size = (min(size),), max(size)
    images = [torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) for _ in range(batch)]
    given = targets(8, size, batch)

    def run() -> Any:
        on_device = [image.to(device) for image in images]
        if not training:
            return model(on_device)
        losses = model(on_device, [{name: x.to(device) for name, x in each.items()} for each in given])
        return torch.stack(list(losses.values())).sum()

    return model, run


def inference(method: str, size: tuple[int, int]) -> Callable[[], object]:
    """From one image to its detections."""
    return torch.no_grad()(detector(method, training=False, size=size)[1])


def launches(method: str) -> dict[str, int]:
    """Of a training step of two images."""
    from peers import counting

    return counting.count(detector(method, training=True, size=counting.SIZE, batch=2)[1])


CASES: dict[str, Callable[..., Any]] = {
    "losses": losses,
    "postprocessing": postprocessing,
    "inference": inference,
    "launches": launches,
    "version": lambda: torchvision.__version__,
}
