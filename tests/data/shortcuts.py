"""How far a classifier gets on `shapes` that is given the true boxes, but sees only their colors or only their size."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detkit.data.shapes import shapes_paths

Features = Callable[[np.ndarray, dict[str, Any]], np.ndarray]


def size_features(image: np.ndarray, annotation: dict[str, Any]) -> np.ndarray:
    """Logarithms of width, height and their products up to the second degree."""
    width, height = np.log(annotation["bbox"][2:])
    return np.array([width, height, width - height, abs(width - height), width * height, width**2, height**2])


def color_features(image: np.ndarray, annotation: dict[str, Any]) -> np.ndarray:
    """Square roots of a histogram of 4 x 4 x 4 colors inside the box."""
    left, top, width, height = annotation["bbox"]
    crop = image[int(top) : int(np.ceil(top + height)), int(left) : int(np.ceil(left + width))]
    histogram = cv2.calcHist([crop], [0, 1, 2], None, [4, 4, 4], [0, 256] * 3).ravel()
    return np.sqrt(histogram / histogram.sum())


def shortcut_ap(root: Path, features: Features) -> dict[str, float]:
    """Box AP in percent, by classifier, on the validation pictures: true boxes, every class scored by a classifier trained on train."""
    train_x, train_y, _ = _collect(root, "train", features)
    val_x, _, val_annotations = _collect(root, "val", features)
    mean, deviation = train_x.mean(0), train_x.std(0) + 1e-6
    train_x, val_x = (train_x - mean) / deviation, (val_x - mean) / deviation
    classifiers = {"neighbors": _nearest_neighbors, "linear": _softmax_regression}
    return {name: _average_precision(root, val_annotations, classify(train_x, train_y, val_x)) for name, classify in classifiers.items()}


def _collect(root: Path, split: str, features: Features) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    coco, image_root = _read(root, split)
    rows, annotations = [], []
    for image_id, image in coco.imgs.items():
        pixels = cv2.imread(str(image_root / image["file_name"]))
        for annotation in coco.imgToAnns[image_id]:
            rows.append(features(pixels, annotation))
            annotations.append(annotation)
    return np.stack(rows), np.array([a["category_id"] - 1 for a in annotations]), annotations


def _read(root: Path, split: str) -> tuple[COCO, Path]:
    json_file, image_root = shapes_paths(root, split)
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(json_file)), image_root


def _nearest_neighbors(train_x: np.ndarray, train_y: np.ndarray, val_x: np.ndarray, k: int = 40) -> np.ndarray:
    distances = ((val_x[:, None] - train_x[None]) ** 2).sum(-1)
    nearest = train_y[np.argsort(distances, axis=1)[:, :k]]
    return np.stack([(nearest == label).mean(axis=1) for label in range(train_y.max() + 1)], axis=1)


def _softmax_regression(train_x: np.ndarray, train_y: np.ndarray, val_x: np.ndarray) -> np.ndarray:
    x, y = torch.tensor(train_x, dtype=torch.float32), torch.tensor(train_y)
    layer = torch.nn.Linear(x.shape[1], int(y.max()) + 1)
    torch.nn.init.zeros_(layer.weight)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(layer(x), y) + 1e-2 * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return layer(torch.tensor(val_x, dtype=torch.float32)).softmax(1).numpy()


def _average_precision(root: Path, annotations: list[dict[str, Any]], scores: np.ndarray) -> float:
    coco, _ = _read(root, "val")
    results = [
        {"image_id": a["image_id"], "category_id": label + 1, "bbox": a["bbox"], "score": float(score)}
        for a, row in zip(annotations, scores, strict=True)
        for label, score in enumerate(row)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * float(evaluation.stats[0])
