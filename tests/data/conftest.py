"""Small datasets: a few generated shapes, and a folder in COCO format that tests break in many ways."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detkit.data.shapes import ShapesSpec, ensure_shapes

from .own_data import OwnData

SMALL_SPEC = ShapesSpec(num_train=16, num_val=6)


@pytest.fixture(scope="session")
def small_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_shapes(tmp_path_factory.mktemp("cache") / "shapes", SMALL_SPEC)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real datasets."""
    root = Path(os.environ.get("DETKIT_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"there is no real data in {root}; set DETKIT_DATA")
    return root.resolve()


class CocoFolder:
    """Three images of 64 x 48 pixels with a box each of the classes 'ball' (id 3) and 'cube' (id 7), on disk."""

    def __init__(self, root: Path) -> None:
        self.json_file, self.image_root = root / "annotations" / "train.json", root / "train"
        self.json_file.parent.mkdir(parents=True)
        self.image_root.mkdir()
        rng = np.random.default_rng(0)
        self.content: dict[str, Any] = {
            "info": {},
            "images": [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in (1, 2, 3)],
            "annotations": [self.annotation(i, i, (3, 7, 3)[i - 1], [4 * i, 5, 20, 16]) for i in (1, 2, 3)],
            "categories": [{"id": 3, "name": "ball"}, {"id": 7, "name": "cube"}],
        }
        for image in self.content["images"]:
            Image.fromarray(rng.integers(0, 256, size=(48, 64, 3), dtype=np.uint8)).save(self.image_root / image["file_name"])
        self.write()

    @staticmethod
    def annotation(number: int, image: int, category: int, box: list[float]) -> dict[str, Any]:
        return {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}

    def write(self) -> None:
        self.json_file.write_text(json.dumps(self.content))

    def image(self, number: int) -> Path:
        return self.image_root / f"{number}.jpg"


@pytest.fixture
def coco_folder(tmp_path: Path) -> CocoFolder:
    return CocoFolder(tmp_path / "data")


@pytest.fixture
def make_coco_folder(tmp_path: Path) -> Callable[[str], CocoFolder]:
    return lambda name: CocoFolder(tmp_path / name)


@pytest.fixture
def own_data(tmp_path: Path, capsys: pytest.CaptureFixture) -> OwnData:
    return OwnData(tmp_path, capsys)
