"""A tiny dataset in COCO format: two classes of objects, a crowd, an image without objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def annotation(number: int, image: int, category: int, box: tuple[float, ...], crowd: int = 0) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": list(box), "area": box[2] * box[3], "iscrowd": crowd}


def detection(image: int, category: int, box: tuple[float, ...], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


@pytest.fixture
def ground_truth_file(tmp_path: Path) -> Path:
    content = {
        "images": [{"id": number, "file_name": f"{number}.jpg", "width": 200, "height": 100} for number in (1, 2, 3)],
        "categories": [{"id": 3, "name": "ball"}, {"id": 7, "name": "cube"}, {"id": 9, "name": "never seen"}],
        "annotations": [
            annotation(1, 1, 3, (10, 10, 40, 40)),
            annotation(2, 1, 7, (100, 10, 50, 50)),
            annotation(3, 2, 3, (20, 20, 30, 30)),
            annotation(4, 2, 3, (60, 20, 30, 30)),
            annotation(5, 2, 3, (100, 0, 100, 100), crowd=1),
        ],
    }
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def detections() -> list[dict[str, Any]]:
    return [
        detection(1, 3, (10, 10, 40, 40), 0.9),  # exact
        detection(1, 7, (100, 10, 50, 40), 0.8),  # IoU 0.8
        detection(2, 3, (20, 20, 30, 30), 0.7),  # exact; the other ball of the image is missed
        detection(2, 3, (110, 10, 30, 30), 0.65),  # on the crowd: does not count
        detection(2, 7, (60, 20, 30, 30), 0.6),  # wrong class
        detection(2, 3, (60, 22, 30, 30), 0.1),  # right, with a poor score
    ]
