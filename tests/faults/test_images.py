"""Image files that people bring, and keys about images."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tests.toys.own_data import SIZE, OwnData

from .rows import Change, Row, all_of, broken, by_name, check_row, cut, every, image, num_trained, saved, val_json


def wrong_block(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(100) + content[middle + 100 :]


def linked(target: str) -> Change:
    """The first image is a link."""

    def change(own: OwnData) -> None:
        own.image(1).unlink()
        own.image(1).symlink_to(target)

    return change


def chunk(name: bytes, content: bytes) -> bytes:
    """Of a PNG."""
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")


def pixel_bomb(own: OwnData) -> None:
    """A few bytes that claim to be 900 million pixels."""
    header = (30000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b"")
    own.image(1).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    image(width=30000, height=30000)(own)


def late_exif(own: OwnData) -> None:
    """The first image asks to be turned by EXIF data that stand behind its pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = own.image(1).read_bytes()
    end = content.rindex(b"IEND") - 4
    own.image(1).write_bytes(content[:end] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + content[end:])


def in_validation(damage: Callable[[bytes], bytes]) -> Change:
    """A fifth image, damaged, with an object, in validation alone."""

    def change(own: OwnData) -> None:
        path = own.root / "bad.png"
        Image.open(own.image(1)).save(path)
        path.write_bytes(damage(path.read_bytes()))
        val_json(lambda content: content["images"].append({"id": 9, "file_name": "bad.png", "width": 64, "height": 48}))(own)

    return change


RAMP = np.linspace(0, 60000, SIZE[0] * SIZE[1]).reshape(SIZE)
VAL = ("DATASETS.VAL_JSON", "val.json")
DEEP = ("INPUT.DEEP_IMAGES", "full_range")
OWN_RANGE = ("INPUT.DEEP_IMAGES", "own_range")
SKIP = ("DATASETS.ON_BAD_IMAGE", "skip")
REFUSED_DEPTH = r"image file cannot be read: 1\n.*more than 8 bits per channel; set INPUT.DEEP_IMAGES"

IMAGES = [
    Row("16 bits", saved("a.png", RAMP.astype(np.uint16)), refused=REFUSED_DEPTH),
    Row("16 bits, scaled", saved("a.png", RAMP.astype(np.uint16)), DEEP),
    Row("32 bits", saved("a.tif", RAMP.astype(np.int32)), refused=REFUSED_DEPTH),
    Row("32 bits, scaled", saved("a.tif", RAMP.astype(np.int32)), OWN_RANGE),
    Row("floating point", saved("a.tif", RAMP.astype(np.float32)), refused=REFUSED_DEPTH),
    Row(
        "floating point, beyond its range", saved("a.tif", RAMP.astype(np.float32)), DEEP, r"values reach from 0 to 60000, beyond the range"
    ),
    Row("floating point, not finite", saved("a.tif", np.full(SIZE, np.nan, np.float32)), OWN_RANGE, "holds values that are not finite"),
    Row("missing", lambda own: own.image(1).unlink(), refused=r"image file is missing: 1\n    1\.png\n.*ON_BAD_IMAGE \"skip\""),
    Row("missing, skipped", lambda own: own.image(1).unlink(), SKIP, says="1 images are left out", holds=num_trained(4)),
    Row("all missing, skipped", lambda own: [own.image(i).unlink() for i in (1, 2, 3, 4)], SKIP, "lie in none of"),
    Row("empty file", lambda own: own.image(1).write_bytes(b""), refused=r"empty \(0 bytes\)"),
    Row("a page", lambda own: own.image(1).write_text("<html>404</html>"), refused="image file cannot be read"),
    Row("a folder", lambda own: [own.image(1).unlink(), own.image(1).mkdir()], refused=r"no regular file but a folder.*\n    1\.png"),
    Row("a pipe", lambda own: [own.image(1).unlink(), os.mkfifo(own.image(1))], refused=r"no regular file.*\n    1\.png"),
    Row("a link to a device", linked("/dev/zero"), refused=r"no regular file.*\n    1\.png"),
    Row("a link to nothing", linked("gone.png"), refused=r"image file is missing: 1\n    1\.png"),
    Row("a link to itself", linked("1.png"), refused=r"image file cannot be read: 1\n    1\.png: .*symbolic links"),
    Row("a name with a zero byte", image(file_name="a\0.png"), refused="image file cannot be read: 1\n.*null byte"),
    Row("a name that is too long", image(file_name="a" * 5000), refused=r"image file cannot be read: 1\n    a{200}\.\.\.: .*too long"),
    Row("a name of Windows", image(file_name="sub\\1.png"), refused=r"image file is missing: 1\n    sub\\1\.png"),
    Row("an address", image(file_name="http://127.0.0.1:9/1.png"), refused=r"image file is missing: 1\n    http://127"),
    Row("too many pixels", pixel_bomb, refused=r"image file cannot be read: 1\n    1\.png: Image size \(900000000 pixels\) exceeds limit"),
    Row("EXIF data behind the pixels", late_exif, refused=r"annotated 64x48, the file is 48x64 after the rotation that its EXIF data"),
    Row("EXIF data behind the pixels, annotated so", all_of(late_exif, image(width=48, height=64), every(bbox=[4, 6, 20, 18]))),
    Row("four colors", all_of(lambda own: Image.new("CMYK", SIZE[::-1]).save(own.root / "1.jpg"), image(file_name="1.jpg"))),
    *(
        Row(f"Pillow's mode {mode}", lambda own, mode=mode: Image.new(mode, SIZE[::-1]).save(own.image(1)))
        for mode in ("1", "L", "LA", "P", "RGBA")
    ),
    Row("another size", lambda own: Image.new("RGB", (32, 24)).save(own.image(1)), refused="annotated 64x48, the file is 32x24"),
    *(
        Row(f"{name} cut off", broken(name, cut), refused=f"image file cannot be read: 1\n    {name}")
        for name in ("a.jpg", "a.png", "a.bmp", "a.webp", "a.avif", "a.tif", "a.jp2")
    ),
    Row("PNG with a wrong block", broken("a.png", wrong_block), refused=r"The image .*a\.png \(id 1\) cannot be used"),
    Row(
        "PNG with a wrong block, pixels checked",
        broken("a.png", wrong_block),
        ("DATASETS.CHECK_PIXELS", "True"),
        r"cannot be read: 1\n    a\.png",
    ),
    Row(
        "PNG with a wrong block, skipped",
        broken("a.png", wrong_block),
        SKIP,
        says=r"Skipped a broken image[\s\S]*could not be read and do not count: 1",
    ),
    Row(
        "PNG with a wrong block, in a data worker",
        broken("a.png", wrong_block),
        ("DATALOADER.NUM_WORKERS", "1"),
        r'^error: The image \S*a\.png \(id 1\) cannot be used: .*, or set DATASETS\.ON_BAD_IMAGE "skip" to go on without it\.$',
    ),
    Row("PNG with a wrong block, in validation", in_validation(wrong_block), VAL, r"^error: The image \S*bad\.png \(id 9\) cannot be used"),
    Row(
        "PNG with a wrong block, in validation in a data worker",
        in_validation(wrong_block),
        (*VAL, "DATALOADER.NUM_WORKERS", "1"),
        r"^error: The image \S*bad\.png \(id 9\) cannot be used",
    ),
    Row(
        "PNG with a wrong block, in validation, skipped",
        in_validation(wrong_block),
        (*VAL, *SKIP),
        says=r"bad\.png \(id 9\)[\s\S]*custom_val, images that could not be read and do not count: 1",
        holds=lambda outcome: {each["image_id"] for each in outcome.detections} == {1, 2, 3, 4},
    ),
    Row(
        "so thin that no pixel is left",
        all_of(saved("thin.png", np.zeros((3000, 1, 3), np.uint8)), image(width=1, height=3000), every(bbox=[0, 0, 1, 20])),
        refused=r"so thin that a side has less than 2 pixels when it is resized: 1\n    thin\.png: 1x3000",
    ),
    Row(
        "so thin that one column is left",
        all_of(saved("thin.png", np.zeros((960, 20, 3), np.uint8)), image(width=20, height=960), every(bbox=[0, 0, 20, 20])),
        ("INPUT.MAX_SIZE_TRAIN", "48"),
        refused=r"so thin that a side has less than 2 pixels when it is resized: 1\n    thin\.png: 20x960",
    ),
    Row(
        "so thin that no pixel is left, in validation",
        all_of(
            lambda own: Image.new("RGB", (1, 3000)).save(own.root / "thin.png"),
            val_json(lambda content: content["images"].append({"id": 9, "file_name": "thin.png", "width": 1, "height": 3000})),
        ),
        VAL,
        r"The dataset custom_val .*\n  image is so thin that a side has less",
    ),
]

KEYS = [
    Row("format of channels", lambda own: None, ("INPUT.FORMAT", "GBR"), r"INPUT\.FORMAT is 'GBR'.*did you mean 'RGB'"),
    Row("no size", lambda own: None, ("INPUT.MIN_SIZE_TRAIN", "()"), r"INPUT\.MIN_SIZE_TRAIN is \(\)"),
    Row("negative size", lambda own: None, ("INPUT.MIN_SIZE_TEST", "-3"), r"INPUT\.MIN_SIZE_TEST is -3"),
    Row("no longest side", lambda own: None, ("INPUT.MAX_SIZE_TRAIN", "0"), r"INPUT\.MAX_SIZE_TRAIN is 0"),
    Row("crop beyond the image", lambda own: None, ("INPUT.CROP.ENABLED", "True", "INPUT.CROP.SIZE", "[5.0, 5.0]"), r"INPUT\.CROP\.SIZE"),
    Row("depth of images", lambda own: None, ("INPUT.DEEP_IMAGES", "clip"), r"INPUT\.DEEP_IMAGES is 'clip'"),
]

ROWS = by_name(image=IMAGES, key=KEYS)


@pytest.mark.parametrize("name", ROWS)
def test_image_file(own_data: OwnData, name: str) -> None:
    check_row(own_data, ROWS[name])
