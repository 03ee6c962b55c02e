"""Image files of every format: whole, cut and with flipped bits. Each works in the whole chain, or is refused by the check and by name."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image as read_by_detectron2
from PIL import Image, features

from detkit.config import get_cfg
from detkit.data import DataError, ImageReadError, build_test_mapper, build_train_mapper, read_image, reading
from detkit.data.checks.images import find_image_faults

FORMATS = ("jpg", "png", "bmp", "gif", "tif", "webp", "avif", "jp2", "ppm", "tga", "pcx", "sgi", "qoi")
HEIGHT, WIDTH = 48, 64


def picture(seed: int = 0) -> np.ndarray:
    """Something between noise and a gradient, so that every format compresses it."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3)
    return (ramp + rng.integers(0, 40, (HEIGHT, WIDTH, 3))).astype(np.uint8)


def encoded(folder: Path, suffix: str, seed: int = 0) -> bytes:
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow does not write AVIF")
    path = folder / f"whole.{suffix}"
    Image.fromarray(picture(seed)).save(path)
    return path.read_bytes()


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut somewhere, or with one to five flipped bits."""
    if rng.random() < 0.5:
        return content[: rng.randrange(1, len(content))]
    flipped = bytearray(content)
    for _ in range(rng.randint(1, 5)):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def config() -> Any:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (HEIGHT,), HEIGHT
    return cfg


def check(path: Path) -> bool:
    """Whether the image passes the check of all pixels; training and evaluation must agree with it."""
    entry = {"id": 1, "file_name": path.name, "width": WIDTH, "height": HEIGHT}
    record = {"file_name": str(path), "image_id": 1, "width": WIDTH, "height": HEIGHT, "annotations": []}
    quick = find_image_faults([entry], path.parent)
    thorough = find_image_faults([entry], path.parent, decode=True)
    assert not quick or thorough, "the quick check refuses what the thorough one takes"
    cfg = config()
    for mapper in (build_train_mapper(cfg), build_test_mapper(cfg)):
        if thorough:
            with pytest.raises(DataError, match=path.name):
                mapper(dict(record))
        else:
            assert mapper(dict(record))["image"].shape == (3, HEIGHT, WIDTH)
    return not thorough


@pytest.mark.parametrize("suffix", FORMATS)
def test_whole_files_are_read_as_by_detectron2(tmp_path: Path, suffix: str) -> None:
    encoded(tmp_path, suffix)
    path = tmp_path / f"whole.{suffix}"
    assert check(path)
    for order in ("RGB", "BGR", "L"):
        np.testing.assert_array_equal(read_image(path, order), read_by_detectron2(str(path), order))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_files(tmp_path: Path, suffix: str) -> None:
    run_damaged(tmp_path, suffix, 12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", FORMATS)
def test_many_damaged_files(tmp_path: Path, suffix: str) -> None:
    run_damaged(tmp_path, suffix, 150)


def run_damaged(folder: Path, suffix: str, count: int) -> None:
    content, rng = encoded(folder, suffix), random.Random(suffix)
    refused = 0
    for number in range(count):
        path = folder / f"{number}.{suffix}"
        path.write_bytes(damaged(content, rng))
        refused += not check(path)
    assert refused > count / 10


# JPEG by simplejpeg, where it is installed -----------------------------------------------------------------------------------------------


def jpeg(folder: Path, mode: str = "RGB", turned: int = 1, **how: Any) -> Path:
    image = Image.fromarray(picture()).convert(mode)
    exif = image.getexif()
    exif[0x0112] = turned
    image.save(folder / "picture.jpg", exif=exif, **how)
    return folder / "picture.jpg"


@pytest.mark.parametrize(
    ("how", "fast"),
    [
        ({}, True),
        ({"progressive": True, "subsampling": 0}, True),
        ({"mode": "L"}, True),
        ({"mode": "CMYK"}, False),
        ({"turned": 6}, False),
        ({"turned": 3}, False),
    ],
)
def test_jpeg_files_have_the_pixels_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], fast: bool) -> None:
    simplejpeg = pytest.importorskip("simplejpeg")
    decoded: list[str] = []
    counted = SimpleNamespace(decode_jpeg=lambda data, order: decoded.append(order) or simplejpeg.decode_jpeg(data, order))
    path = jpeg(tmp_path, **how)
    for order in ("RGB", "BGR", "L"):
        monkeypatch.setattr(reading, "simplejpeg", counted)
        quick = read_image(path, order)
        monkeypatch.setattr(reading, "simplejpeg", None)
        np.testing.assert_array_equal(quick, read_image(path, order))
        np.testing.assert_array_equal(quick, read_by_detectron2(str(path), order))
    assert decoded == ["RGB", "BGR"] * fast


def test_damaged_jpeg_files_are_refused_in_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, rng = jpeg(tmp_path).read_bytes(), random.Random(1)
    found: list[Any] = []
    for _ in range(60):
        (tmp_path / "broken.jpg").write_bytes(damaged(content, rng))
        for without in (False, True):
            with monkeypatch.context() as changed:
                if without:
                    changed.setattr(reading, "simplejpeg", None)
                try:
                    found.append(read_image(tmp_path / "broken.jpg", "BGR").tobytes())
                except ImageReadError as error:
                    found.append(str(error))
    assert found[::2] == found[1::2]
    assert len({said for said in found if isinstance(said, str)}) > 1


# depth ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "values", "full_range"),
    [
        ("png", np.array([[0, 257, 65535]], np.uint16), [0, 1, 255]),
        ("tif", np.array([[0, 2**30, 2**31 - 1]], np.int32), [0, 128, 255]),
        ("tif", np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
    ],
)
def test_deep_images_are_scaled_or_refused(tmp_path: Path, suffix: str, values: np.ndarray, full_range: list[int]) -> None:
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(values).save(path)
    with pytest.raises(ImageReadError, match="more than 8 bits per channel"):
        read_image(path, "RGB")
    scaled = read_image(path, "RGB", deep_images="full_range")
    np.testing.assert_allclose(scaled[0], np.repeat(np.array(full_range)[:, None], 3, axis=1), atol=1)
    own = read_image(path, "L", deep_images="own_range")
    assert own.min() == 0 and own.max() == 255


def test_a_deep_image_of_one_value_is_black(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 7000, np.uint16)).save(tmp_path / "flat.png")
    np.testing.assert_array_equal(read_image(tmp_path / "flat.png", "L", deep_images="own_range"), 0)


def test_exif_orientation_of_a_deep_image(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png", "L", deep_images="own_range").shape == (4, 3, 1)
