from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detkit.data.checks import DataError, check_coco_folder, read_coco_json
from detkit.data.checks import images as image_checks
from tests.toys.datasets import CocoFolder


def check(folder: CocoFolder, **choices: Any) -> Any:
    return check_coco_folder("balls", folder.json_file, folder.image_root, **choices)


def test_sound_data_is_returned_unchanged(coco_folder: CocoFolder) -> None:
    checked = check(coco_folder, decode_images=True)
    assert not checked.changed and checked.content == coco_folder.content


# the annotation file --------------------------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json does not exist.*DATASETS.TRAIN_JSON"):
        read_coco_json(tmp_path / "none.json")


def test_not_json(coco_folder: CocoFolder) -> None:
    coco_folder.json_file.write_text('{"images": [')
    with pytest.raises(DataError, match=r"train\.json is not json.*line 1"):
        check(coco_folder)


@pytest.mark.parametrize("content", [[], [{"image_id": 1, "score": 0.5}], "coco", 3])
def test_top_level_is_no_object(coco_folder: CocoFolder, content: Any) -> None:
    coco_folder.json_file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="not a COCO annotation file: its top level is a"):
        check(coco_folder)


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_missing_section(coco_folder: CocoFolder, section: str) -> None:
    del coco_folder.content[section]
    coco_folder.write()
    with pytest.raises(DataError, match=f"'{section}' is missing. It has: info, "):
        check(coco_folder)


@pytest.mark.parametrize(
    "section, key", [("images", "file_name"), ("images", "width"), ("annotations", "bbox"), ("annotations", "id"), ("categories", "name")]
)
def test_missing_key(coco_folder: CocoFolder, section: str, key: str) -> None:
    del coco_folder.content[section][1][key]
    coco_folder.write()
    with pytest.raises(DataError, match=rf"entry of '{section}' lacks '{key}': 1\n    {section}\[1\]"):
        check(coco_folder)


@pytest.mark.parametrize("section", ["images", "categories"])
def test_repeated_id(coco_folder: CocoFolder, section: str) -> None:
    coco_folder.content[section].append(dict(coco_folder.content[section][0]))
    coco_folder.write()
    with pytest.raises(DataError, match=f"id occurs twice in '{section}': 1"):
        check(coco_folder)


def test_annotation_ids_may_be_repeated(coco_folder: CocoFolder) -> None:
    copy, other = dict(coco_folder.content["annotations"][0]), {**coco_folder.content["annotations"][1], "id": 1}
    coco_folder.content["annotations"] += [copy, other]
    coco_folder.write()
    annotations = check(coco_folder).content["annotations"]
    assert [annotation["id"] for annotation in annotations] == [1, 2, 3, "1 (2)"]  # the copy is gone, the other one has a name of its own
    assert annotations[3]["image_id"] == 2


def test_category_id_without_category(coco_folder: CocoFolder) -> None:
    coco_folder.content["annotations"][2]["category_id"] = 4
    coco_folder.write()
    with pytest.raises(DataError, match=r"category id without a category: 1\n    annotation 3: category_id 4"):
        check(coco_folder)


def test_annotation_of_no_image(coco_folder: CocoFolder) -> None:
    coco_folder.content["annotations"][0]["image_id"] = 99
    coco_folder.write()
    with pytest.raises(DataError, match="image id without an image: 1"):
        check(coco_folder)


@pytest.mark.parametrize("length", [3, 7])
def test_wrong_number_of_keypoints(coco_folder: CocoFolder, length: int) -> None:
    coco_folder.content["categories"][0]["keypoints"] = ["left", "right"]
    coco_folder.content["annotations"][0]["keypoints"] = [0] * 6
    coco_folder.content["annotations"][2]["keypoints"] = [0] * length
    coco_folder.write()
    with pytest.raises(DataError, match=rf"keypoints of a wrong length: 1\n    annotation 3: {length} numbers, its category asks for 6"):
        check(coco_folder)


@pytest.mark.parametrize("section", ["images", "categories"])
def test_nothing_listed(coco_folder: CocoFolder, section: str) -> None:
    coco_folder.content |= {section: [], "annotations": []}
    coco_folder.write()
    with pytest.raises(DataError, match=f"lists no {section}"):
        check(coco_folder)


def test_data_without_objects_is_sound(coco_folder: CocoFolder) -> None:
    coco_folder.content["annotations"] = []
    coco_folder.write()
    assert len(check(coco_folder).content["images"]) == 3


# images ---------------------------------------------------------------------------------------------------------------------------------


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def overwrite(path: Path) -> None:
    path.write_text("no picture")


def shrink(path: Path) -> None:
    Image.open(path).resize((32, 24)).save(path)


BREAKAGES = [
    (remove, "image file is missing"),
    (empty, r"image file is empty \(0 bytes\)"),
    (truncate, "image file cannot be read"),
    (overwrite, "image file cannot be read"),
    (shrink, "image size differs from the annotation"),
]


@pytest.mark.parametrize("breakage, words", BREAKAGES)
def test_broken_image(coco_folder: CocoFolder, breakage: Callable[[Path], None], words: str) -> None:
    breakage(coco_folder.image(2))
    with pytest.raises(DataError, match=rf"{words}: 1\n    2\.jpg[\s\S]*set DATASETS.ON_BAD_IMAGE \"skip\""):
        check(coco_folder)


@pytest.mark.parametrize("breakage, words", BREAKAGES)
def test_broken_image_is_skipped_counted_and_named(
    coco_folder: CocoFolder, breakage: Callable[[Path], None], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    breakage(coco_folder.image(2))
    with caplog.at_level(logging.WARNING):
        checked = check(coco_folder, on_bad_image="skip")
    assert [image["id"] for image in checked.content["images"]] == [1, 3]
    assert [a["image_id"] for a in checked.content["annotations"]] == [1, 3]
    assert checked.changed and [fault.where for fault in checked.skipped_images] == ["2.jpg"]
    assert "1 images are left out" in caplog.text and "2.jpg" in caplog.text


def test_truncated_png(coco_folder: CocoFolder) -> None:
    path = coco_folder.image_root / "2.png"
    Image.open(coco_folder.image(2)).save(path)
    truncate(path)
    coco_folder.content["images"][1]["file_name"] = path.name
    coco_folder.write()
    with pytest.raises(DataError, match=r"image file cannot be read: 1\n    2\.png"):
        check(coco_folder)


def test_rotation_by_exif_counts(coco_folder: CocoFolder) -> None:
    image = Image.open(coco_folder.image(1))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(coco_folder.image(1), exif=exif)
    with pytest.raises(DataError, match=r"1\.jpg: annotated 64x48, the file is 48x64 after the rotation that its EXIF data asks for"):
        check(coco_folder)
    coco_folder.content["images"][0] |= {"width": 48, "height": 64}
    coco_folder.write()
    assert not check(coco_folder).changed


def test_no_image_is_left(coco_folder: CocoFolder) -> None:
    for number in (1, 2, 3):
        remove(coco_folder.image(number))
    with pytest.raises(DataError, match="none of the 3 images"):
        check(coco_folder, on_bad_image="skip")


def test_first_offenders_of_many_are_named(coco_folder: CocoFolder) -> None:
    coco_folder.content["images"] += [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in range(10, 30)]
    coco_folder.write()
    with pytest.raises(DataError, match=r"image file is missing: 20\n(    \d+\.jpg\n){5}    and 15 more"):
        check(coco_folder)


def test_of_many_images_some_are_opened_and_all_looked_for(coco_folder: CocoFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_checks, "MAX_HEADERS", 2)
    shrink(coco_folder.image(2))
    assert not check(coco_folder).changed
    shrink(coco_folder.image(1))
    with pytest.raises(DataError, match=r"1\.jpg"):
        check(coco_folder)
    remove(coco_folder.image(2))
    with pytest.raises(DataError, match="missing: 1"):
        check(coco_folder)


def test_damage_inside_is_found_by_decoding(coco_folder: CocoFolder) -> None:
    path = coco_folder.image_root / "2.png"
    Image.open(coco_folder.image(2)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(100) + content[len(content) // 2 + 100 :])
    coco_folder.content["images"][1]["file_name"] = path.name
    coco_folder.write()
    assert not check(coco_folder).changed
    with pytest.raises(DataError, match=r"cannot be read: 1\n    2\.png"):
        check(coco_folder, decode_images=True)


# boxes ----------------------------------------------------------------------------------------------------------------------------------

BAD_BOXES = [
    ([float("nan"), 1, 5, 5], "box is not four finite numbers"),
    ([1, 1, float("inf"), 5], "box is not four finite numbers"),
    ([1, 1, 5], "box is not four finite numbers"),
    ([1, 1, "5", 5], "box is not four finite numbers"),
    ([1, 1, 0, 5], "box has zero or negative size"),
    ([10, 10, 5, -5], "box has zero or negative size"),
    ([70, 10, 5, 5], "box lies outside the image"),
    ([-20, 10, 5, 5], "box lies outside the image"),
]


@pytest.mark.parametrize("box, words", BAD_BOXES)
def test_bad_box(coco_folder: CocoFolder, box: list[float], words: str) -> None:
    coco_folder.content["annotations"][1]["bbox"] = box
    coco_folder.write()
    with pytest.raises(DataError, match=rf"{words}: 1\n    annotation 2 of 2\.jpg[\s\S]*DATASETS.ON_BAD_BOX \"fix\""):
        check(coco_folder)
    checked = check(coco_folder, on_bad_box="fix")
    assert checked.changed and [a["id"] for a in checked.content["annotations"]] == [1, 3]
    assert len(checked.content["images"]) == 3


def test_boxes_may_be_kept(coco_folder: CocoFolder, caplog: pytest.LogCaptureFixture) -> None:
    coco_folder.content["annotations"][1]["bbox"] = [1, 1, 0, 5]
    coco_folder.write()
    with caplog.at_level(logging.WARNING):
        assert not check(coco_folder, on_bad_box="keep").changed
    assert "1 boxes are wrong and stay as they are" in caplog.text


def test_box_that_sticks_out(coco_folder: CocoFolder) -> None:
    coco_folder.content["annotations"][1]["bbox"] = [50, -8, 20, 16]
    coco_folder.write()
    with pytest.raises(DataError, match=r"box sticks out of the image by more than 2 pixels: 1"):
        check(coco_folder)
    assert check(coco_folder, on_bad_box="fix").content["annotations"][1]["bbox"] == [50, 0, 14, 8]


@pytest.mark.parametrize(
    "box, clipped",
    [
        ([-8, 10, 20, 16], [0, 10, 12, 16]),
        ([10, -8, 20, 16], [10, 0, 20, 8]),
        ([-3, -4, 10, 12], [0, 0, 7, 8]),
        ([50, 10, 20, 16], [50, 10, 14, 16]),
        ([10, 40, 20, 16], [10, 40, 20, 8]),
        ([-5, -6, 90, 80], [0, 0, 64, 48]),
        ([-2.5, 10, 20, 16], [0, 10, 17.5, 16]),
    ],
)
def test_a_box_ends_at_each_border_of_its_image(coco_folder: CocoFolder, box: list[float], clipped: list[float]) -> None:
    coco_folder.content["annotations"][1]["bbox"] = box
    coco_folder.write()
    with pytest.raises(DataError, match=r"box sticks out of the image by more than 2 pixels: 1"):
        check(coco_folder)
    checked = check(coco_folder, on_bad_box="fix")
    assert checked.changed and checked.content["annotations"][1]["bbox"] == clipped
    assert [a["bbox"] for a in checked.content["annotations"][::2]] == [[4, 5, 20, 16], [12, 5, 20, 16]]


def test_rounding_is_no_fault(coco_folder: CocoFolder) -> None:
    coco_folder.content["annotations"][1]["bbox"] = [-1, 0, 66, 48.5]
    coco_folder.write()
    assert not check(coco_folder).changed


def test_images_and_boxes_in_one_error(coco_folder: CocoFolder) -> None:
    remove(coco_folder.image(3))
    coco_folder.content["annotations"][0]["bbox"] = [1, 1, 0, 0]
    coco_folder.write()
    with pytest.raises(DataError, match=r"zero or negative size: 1[\s\S]*missing: 1[\s\S]*ON_BAD_IMAGE[\s\S]*ON_BAD_BOX"):
        check(coco_folder)


# what evaluation needs ------------------------------------------------------------------------------------------------------------------


def test_area_and_iscrowd_are_filled_in(coco_folder: CocoFolder) -> None:
    del coco_folder.content["info"]
    for annotation in coco_folder.content["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    coco_folder.write()
    checked = check(coco_folder)
    assert checked.changed and "info" in checked.content
    assert [(a["area"], a["iscrowd"]) for a in checked.content["annotations"]] == [(320, 0)] * 3


def test_area_of_a_mask_is_kept(coco_folder: CocoFolder) -> None:
    coco_folder.content["annotations"][0] |= {"area": 12.5}
    del coco_folder.content["annotations"][0]["iscrowd"]
    coco_folder.write()
    assert np.isclose(check(coco_folder).content["annotations"][0]["area"], 12.5)
