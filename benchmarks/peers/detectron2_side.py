"""Detectron2's FCOS, as :mod:`peers.worker` runs it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import detectron2
import torch
from detectron2 import model_zoo
from detectron2.config import instantiate
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from inputs import SIZE, dense_maps, objects
from torch import nn

__all__ = ["CASES", "build"]


@lru_cache(maxsize=1)
def build(device: str = "cpu") -> FCOS:
    """``COCO-Detection/fcos_R_50_FPN_1x.py``, random weights. Scores, which are roots, have to exceed 0.2."""
    config = model_zoo.get_config("COCO-Detection/fcos_R_50_FPN_1x.py").model
    torch.manual_seed(0)
    return instantiate(config).to(device)


def instances(count: int, size: tuple[int, int] = SIZE, batch: int = 2) -> list[Instances]:
    pairs = [objects(count, image, size) for image in range(batch)]
    return [Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes) for boxes, classes in pairs]


def losses(method: str, count: int, size: tuple[int, int] = SIZE) -> Callable[[], object]:
    """From the maps of a head and the objects of a batch of 2 to the gradient of the maps."""
    size = (size[0], size[1])
    model = build().train()
    predictions = dense_maps("distances", size=size)
    leaves = [x.requires_grad_() for maps in predictions for x in maps]
    given = instances(count, size)

    def run() -> None:
        with EventStorage():
            found = model.forward_training(None, list(predictions[0]), predictions, given)
        torch.autograd.grad(sum(found.values()), leaves)

    return run


def postprocessing(method: str, scores: str) -> Callable[[], object]:
    """From the maps of a head to the detections of one image."""
    model = build().eval()
    maps = dense_maps("distances", scores=scores, batch=1)
    images = ImageList(torch.empty(1, 3, *SIZE), [SIZE])

    @torch.no_grad()
    def run() -> object:
        kept = [[x.clone() for x in each] for each in (maps[0], maps[2])]  # it takes sigmoids in place
        return model.forward_inference(images, list(maps[0]), [kept[0], maps[1], kept[1]])

    return run


def detector(
    method: str, *, training: bool, size: tuple[int, int], batch: int = 1, device: str = "cpu"
) -> tuple[nn.Module, Callable[[], Any]]:
    """A detector, and what it makes of images and objects on the host: the sum of the losses, or the detections."""
    model = build(device).train(training)
    random = torch.Generator().manual_seed(0)
    data: list[dict[str, Any]] = [
        {"image": torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=random), "height": size[0], "width": size[1]}
        | {"instances": each}
        for each in instances(8, size, batch)
    ]

    def run() -> Any:
        with EventStorage():
            return torch.stack(list(model(data).values())).sum() if training else model(data)

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
    "version": lambda: detectron2.__version__,
}
