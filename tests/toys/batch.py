"""Two images with five objects that a detector can learn by heart, and the AP that it reaches on them."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

#: box and class of the objects, one image after the other
OBJECTS = [
    [([10, 12, 50, 60], 0), ([70, 20, 118, 52], 1), ([60, 60, 84, 90], 2)],
    [([4, 4, 90, 80], 2), ([96, 40, 124, 92], 0)],
]
COLORS = torch.tensor([[220, 40, 40], [40, 220, 40], [40, 40, 220]], dtype=torch.uint8)


def make_batch() -> list[dict[str, Any]]:
    """The images and their objects, as Detectron2's mapper hands them over; the color of an object is that of its class."""
    generator = torch.Generator().manual_seed(0)
    batch = []
    for objects in OBJECTS:
        image = torch.randint(90, 130, (3, 96, 128), generator=generator, dtype=torch.uint8)
        for (x0, y0, x1, y1), label in objects:
            image[:, y0:y1, x0:x1] = COLORS[label][:, None, None]
        instances = Instances((96, 128))
        instances.gt_boxes = Boxes(torch.tensor([box for box, _ in objects], dtype=torch.float32))
        instances.gt_classes = torch.tensor([label for _, label in objects])
        batch.append({"image": image, "instances": instances, "height": 96, "width": 128})
    return batch


def average_precision(model: nn.Module, batch: list[dict[str, Any]]) -> float:
    """Box AP in percent of a model on :func:`make_batch`, by pycocotools."""
    gts, detections = [], []
    with torch.no_grad():
        results = model.eval()(batch)
    for image_id, (objects, result) in enumerate(zip(OBJECTS, results, strict=True), 1):
        for (x0, y0, x1, y1), label in objects:
            box = [x0, y0, x1 - x0, y1 - y0]
            gts.append({"id": len(gts) + 1, "image_id": image_id, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
        found = result["instances"]
        rows = zip(found.pred_boxes.tensor.tolist(), found.scores.tolist(), found.pred_classes.tolist(), strict=True)
        for (x0, y0, x1, y1), score, label in rows:
            box = [x0, y0, x1 - x0, y1 - y0]
            detections.append({"image_id": image_id, "category_id": label, "bbox": box, "score": score})
    coco = COCO()
    coco.dataset = {"images": [{"id": 1}, {"id": 2}], "annotations": gts, "categories": [{"id": i} for i in range(3)]}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[0]
