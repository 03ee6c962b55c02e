"""CrowdHuman's annotation files: what is read, and what is said about files that cannot be."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from detkit.config import ConfigError
from detkit.data import DataError, load_crowdhuman, prepare_datasets, read_odgt, register_crowdhuman
from detkit.evaluation import CrowdScene, crowd_metrics
from tests.toys.detectors import tiny_cfg

BODY, CUT, OUTSIDE, REGION = [10, 5, 20, 30], [-8, 10, 20, 60], [200, 5, 10, 10], [40, 0, 20, 20]


def person(box: list[Any], **extra: Any) -> dict[str, Any]:
    return {"tag": "person", "fbox": box, "vbox": [1, 1, 2, 2], "hbox": [1, 1, 1, 1], "head_attr": {}, "extra": {"box_id": 0, **extra}}


def line(name: str, *boxes: dict[str, Any]) -> str:
    return json.dumps({"ID": name, "gtboxes": list(boxes)})


LINES = (
    line("a,1", person(BODY), person(CUT, occ=1, ignore=0), {"tag": "mask", "fbox": REGION, "extra": {"ignore": 1}}),
    line("b,2", person(BODY, ignore=1), person(OUTSIDE)),
    line("c,3"),
)


@pytest.fixture
def crowd(tmp_path: Path) -> Path:
    """An odgt file with three images of 64 x 48 pixels in ``Images`` beside it."""
    (tmp_path / "Images").mkdir()
    for name in ("a,1", "b,2", "c,3"):
        Image.new("RGB", (64, 48), (80, 90, 100)).save(tmp_path / "Images" / f"{name}.jpg")
    return write(tmp_path, *LINES)


def write(folder: Path, *lines: str) -> Path:
    path = folder / "annotation_train.odgt"
    path.write_text("\n".join(lines) + "\n\n")
    return path


def images_of(odgt: Path) -> Path:
    return odgt.parent / "Images"


def test_lines_become_images(crowd: Path) -> None:
    first, second, third = read_odgt(crowd)
    assert first.image_id == "a,1" and first.boxes == (tuple(BODY), tuple(CUT), tuple(REGION)) and first.ignored == (False, False, True)
    assert second.ignored == (True, False) and second.boxes[1] == tuple(OUTSIDE)
    assert third.boxes == ()


def test_reading_goes_line_by_line(crowd: Path) -> None:
    write(crowd.parent, LINES[0], "{")
    images = read_odgt(crowd)
    assert next(images).image_id == "a,1"
    with pytest.raises(DataError, match="line 2: not json"):
        next(images)


def test_dicts_have_sizes_and_crowds(crowd: Path) -> None:
    first, second, third = load_crowdhuman(crowd, images_of(crowd))
    assert (first["image_id"], first["width"], first["height"]) == ("a,1", 64, 48) and Path(first["file_name"]).is_file()
    assert [a["iscrowd"] for a in first["annotations"]] == [0, 0, 1] and {a["category_id"] for a in first["annotations"]} == {0}
    assert third["annotations"] == []


def test_training_sees_clipped_persons_and_no_regions(crowd: Path) -> None:
    cfg = tiny_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (48,), "none"
    mapper = DatasetMapper(cfg, is_train=True)
    first, second, third = (mapper(record)["instances"].gt_boxes.tensor.tolist() for record in load_crowdhuman(crowd, images_of(crowd)))
    assert first == [[10, 5, 30, 35], [0, 10, 12, 48]]  # the cut person ends at the border
    assert second == [] and third == []  # nothing of a person outside the image is left


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", r"annotation_train.odgt, line 2: not json"),
        ("[1]", r"line 2: .*'ID' and the list 'gtboxes'; here is a list"),
        (json.dumps({"ID": "x", "dtboxes": []}), r"line 2: .*here is ID, dtboxes"),
        (json.dumps({"ID": 3, "gtboxes": []}), r"line 2: .*here is ID, gtboxes"),
        (
            line("x", person(BODY), person([1, 2, 3])),
            r"line 2 \(image x\), gtboxes\[1\]: 'fbox' should be four finite numbers.*\[1, 2, 3\]",
        ),
        (line("x", person([1, 2, float("nan"), 4])), r"gtboxes\[0\].*nan"),
        (line("x", person([10**400, 2, 3, 4])), r"gtboxes\[0\].*four finite numbers"),
        (line("x", person([1, 2, float("inf"), 4])), r"gtboxes\[0\].*inf"),
        ("[" * 100000, "line 2: not json"),
        ('{"ID": ' + "9" * 5000 + "}", "line 2: not json"),
        (line("x", person([True, 2, 3, 4])), r"gtboxes\[0\].*four finite numbers.*\[True, 2, 3, 4\]"),
        (line("x", person([5, 5, True, 4], ignore=1)), r"gtboxes\[0\].*four finite numbers"),
        (json.dumps({"ID": "x", "gtboxes": [{"tag": "person"}]}), r"gtboxes\[0\].*it is None"),
        (json.dumps({"ID": "x", "gtboxes": ["person"]}), r"gtboxes\[0\].*it is None"),
        (LINES[0], r"line 2: the image a,1 stands in line 1 already"),
    ],
)
def test_broken_lines_are_named(crowd: Path, text: str, words: str) -> None:
    write(crowd.parent, LINES[0], text)
    with pytest.raises(DataError, match=words):
        list(read_odgt(crowd))


def test_boxes_without_extent_are_harmless_regions(crowd: Path, caplog: pytest.LogCaptureFixture) -> None:
    empty = [{"tag": "mask", "fbox": [20, 20, 0, 5], "extra": {}}, person([30, 30, -20, 5])]
    write(crowd.parent, line("a,1", person(BODY), *empty))
    with caplog.at_level(logging.WARNING):
        (record,) = load_crowdhuman(crowd, images_of(crowd))
    assert "2 boxes have no width or height" in caplog.text
    assert [a["iscrowd"] for a in record["annotations"]] == [0, 1, 1]
    objects = np.array([BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]], dtype=float)
    boxes = np.array([[10, 5, 30, 35], [18, 18, 22, 27], [9, 30, 31, 35]], dtype=float)  # the person, and on the regions
    metrics = [
        crowd_metrics([CrowdScene((48, 64), objects[:1], regions, boxes, np.array([0.9, 0.95, 0.8]))])
        for regions in (objects[1:], objects[:0])
    ]
    assert metrics[0] == metrics[1] and metrics[0].ap < 1  # the detections on them count as false
    cfg = tiny_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (48,), "none"
    assert DatasetMapper(cfg, is_train=True)(record)["instances"].gt_boxes.tensor.tolist() == [[10, 5, 30, 35]]


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone.odgt does not exist.*DETECTRON2_DATASETS"):
        list(read_odgt(tmp_path / "gone.odgt"))
    with pytest.raises(DataError, match="cannot be read"):
        list(read_odgt(tmp_path))
    (tmp_path / "image.odgt").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match="image.odgt, after line 0: not text"):
        list(read_odgt(tmp_path / "image.odgt"))


def test_images_that_cannot_be_used(crowd: Path, caplog: pytest.LogCaptureFixture) -> None:
    (images_of(crowd) / "a,1.jpg").unlink()
    (images_of(crowd) / "b,2.jpg").write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"(?s)image file cannot be read: 1.*b,2.jpg.*image file is missing: 1.*a,1.jpg.*DATASETS.ON_BAD_IMAGE"
    ):
        load_crowdhuman(crowd, images_of(crowd))
    with caplog.at_level(logging.WARNING):
        (left,) = load_crowdhuman(crowd, images_of(crowd), on_bad_image="skip")
    assert left["image_id"] == "c,3" and "2 images are left out" in caplog.text and "b,2.jpg" in caplog.text
    (images_of(crowd) / "c,3.jpg").unlink()
    with pytest.raises(DataError, match="there is no image to use"):
        load_crowdhuman(crowd, images_of(crowd), on_bad_image="skip")


# registration ---------------------------------------------------------------------------------------------------------------------------


def test_names_are_registered() -> None:
    for split in ("train", "val"):
        metadata = MetadataCatalog.get(f"crowdhuman_{split}")
        assert f"crowdhuman_{split}" in DatasetCatalog and metadata.evaluator_type == "crowdhuman" and metadata.thing_classes == ["person"]
        assert Path(metadata.odgt_file).parts[-2:] == ("crowdhuman", f"annotation_{split}.odgt")


def test_files_by_command_line(crowd: Path, tmp_path: Path) -> None:
    cfg = tiny_cfg()
    cfg.merge_from_list(
        ["DATASETS.TRAIN_JSON", str(crowd), "DATASETS.VAL_JSON", str(crowd), "DATASETS.NAME", "people", "MODEL.FCOS.NUM_CLASSES", 80]
    )
    prepare_datasets(cfg)
    assert cfg.DATASETS.TRAIN == ("people_train",) and cfg.DATASETS.TEST == ("people_val",) and cfg.MODEL.FCOS.NUM_CLASSES == 1
    assert len(DatasetCatalog.get("people_val")) == 3 and MetadataCatalog.get("people_val").evaluator_type == "crowdhuman"


def test_bad_images_are_said_before_training_or_skipped(crowd: Path) -> None:
    (images_of(crowd) / "b,2.jpg").write_bytes(b"")
    register_crowdhuman("broken_crowd", crowd, images_of(crowd))
    cfg = tiny_cfg()
    cfg.merge_from_list(["DATASETS.TRAIN", (), "DATASETS.TEST", ("broken_crowd",), "MODEL.FCOS.NUM_CLASSES", 80])
    with pytest.raises(DataError, match=r"(?s)is empty \(0 bytes\): 1.*b,2.jpg"):
        prepare_datasets(cfg)
    cfg.DATASETS.ON_BAD_IMAGE = "skip"
    prepare_datasets(cfg)
    assert [record["image_id"] for record in DatasetCatalog.get("broken_crowd")] == ["a,1", "c,3"]


def test_an_empty_file_by_command_line(tmp_path: Path) -> None:
    cfg = tiny_cfg()
    cfg.merge_from_list(["DATASETS.TRAIN_JSON", str(write(tmp_path))])
    with pytest.raises((DataError, ConfigError), match="lists no images"):
        prepare_datasets(cfg)


def test_sample_of_the_real_annotations(real_file: Callable[[str], Path], tmp_path: Path) -> None:
    sample = real_file("crowdhuman/annotation_sample.odgt")
    images = list(read_odgt(sample))
    assert len(images) == 5 and sum(len(image.boxes) for image in images) == 43 and sum(map(sum, (i.ignored for i in images))) == 2
    assert (-120, 158, 552, 1596) in images[1].boxes
    sizes = json.loads((sample.parent / "id_hw.json").read_text())
    for image in images:
        height, width = sizes.get(image.image_id, (1024, 1024))
        Image.new("L", (width, height)).save(tmp_path / f"{image.image_id}.jpg")
    first = load_crowdhuman(sample, tmp_path)[0]
    assert (first["height"], first["width"]) == (1356, 2048) and len(first["annotations"]) == 7
