"""The fixtures that all tests see."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detkit import get_config_file
from detkit.data.shapes import ShapesSpec, ensure_shapes
from detkit.engine import run
from tests.toys.datasets import CocoFolder, make_toy_data, register_toy_data, toy_cfg
from tests.toys.outlines import SIZE
from tests.toys.own_data import OwnData

DATA = Path(os.environ.get("DETKIT_DATA", Path(__file__).parents[3] / "shared" / "data"))
#: the pictures of the fixture ``small_shapes``
SMALL_SPEC = ShapesSpec(num_train=16, num_val=6)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real datasets; a test that asks for it is skipped where there is none."""
    if not DATA.is_dir():
        pytest.skip(f"there is no real data in {DATA}; set DETKIT_DATA")
    return DATA.resolve()


@pytest.fixture(scope="session")
def real_file(real_data: Path) -> Callable[[str], Path]:
    """Finds a file of the real datasets by its path in their folder; a test whose file is missing is skipped."""

    def find(path: str) -> Path:
        if not (real_data / path).is_file():
            pytest.skip(f"there is no {real_data / path}; set DETKIT_DATA")
        return real_data / path

    return find


@pytest.fixture(scope="session")
def small_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated dataset ``shapes``, with 16 pictures to train on and 6 for validation."""
    return ensure_shapes(tmp_path_factory.mktemp("cache") / "shapes", SMALL_SPEC)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of own data, and below it ``out``: two iterations of training on it through the command line."""
    folder = tmp_path_factory.mktemp("own")
    data = CocoFolder(folder / "data")
    words = ["--config-file", get_config_file("quick/fcos_shapes.yaml"), "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2"]
    words += ["DATASETS.NAME", "balls", "DATASETS.TRAIN_JSON", str(data.json_file), "DATASETS.TRAIN_IMAGES", str(data.image_root)]
    words += ["DATASETS.VAL_JSON", str(data.json_file), "DATASETS.VAL_IMAGES", str(data.image_root), "DATALOADER.NUM_WORKERS", "0"]
    words += ["MODEL.FCOS.TEST.SCORE_THRESH", "0.0", "INPUT.MIN_SIZE_TEST", "64", "TEST.EXPECTED_RESULTS", "[]"]
    run([*words, "OUTPUT_DIR", str(folder / "out")])
    return folder


@pytest.fixture
def cfg(tmp_path: Path) -> Any:
    """A training of six iterations of the toy detector on eight images of equal size."""
    return toy_cfg(register_toy_data(make_toy_data(tmp_path / "data"), "toy"), tmp_path / "out")


@pytest.fixture
def own_data(tmp_path: Path, capsys: pytest.CaptureFixture) -> OwnData:
    """A small dataset of a user's own, and the command line on it."""
    return OwnData(tmp_path, capsys)


@pytest.fixture
def coco_folder(tmp_path: Path) -> CocoFolder:
    """A dataset of three images in COCO format."""
    return CocoFolder(tmp_path / "data")


@pytest.fixture
def make_coco_folder(tmp_path: Path) -> Callable[[str], CocoFolder]:
    """Makes a dataset like ``coco_folder`` in a folder of the given name."""
    return lambda name: CocoFolder(tmp_path / name)


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    """A noise image of :data:`~tests.toys.outlines.SIZE`."""
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path)
    return path
