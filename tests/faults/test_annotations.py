"""Annotation files that people bring: fields, ids, masks, whole files, files with nothing to learn, and what evaluation makes of them."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from detkit.data import register_coco_folder
from tests.toys.own_data import OwnData, annotation

from .endings import assert_goes_through
from .rows import (
    Row,
    all_of,
    by_name,
    category,
    check_row,
    cut,
    every,
    first,
    image,
    keypoints,
    lsnet,
    num_trained,
    raw,
    section,
    val_json,
    without,
)

RUNS = {"size": [48, 64], "counts": [100, 20, 48 * 64 - 120]}
OUTLINE = [[4, 6, 20, 6, 12, 20]]

WHOLE_FILE = [
    Row("no such file", lambda own: None, ("DATASETS.TRAIN_JSON", "gone.json"), r"gone\.json does not exist\. Correct its name"),
    Row("a folder", lambda own: None, ("DATASETS.TRAIN_JSON", "/tmp"), "cannot be read: /tmp is no regular file but a folder"),
    Row("a device", lambda own: None, ("DATASETS.TRAIN_JSON", "/dev/zero"), "/dev/zero is no regular file"),
    Row("a pipe", lambda own: os.mkfifo(own.root / "pipe.json"), ("DATASETS.TRAIN_JSON", "pipe.json"), r"pipe\.json is no regular file"),
    Row("a pipe of lines", lambda own: os.mkfifo(own.root / "a.odgt"), ("DATASETS.TRAIN_JSON", "a.odgt"), r"a\.odgt is no regular file"),
    Row("null", raw(lambda content: b"null"), refused=r"own\.json is not a COCO annotation file: its top level is a NoneType"),
    Row("two files in one", raw(lambda content: content * 2), refused=r"own\.json is not json: Extra data: line 1"),
    Row("images in an object", section("images", {"1": {}}), refused=r"own\.json is not a COCO annotation file: 'images' is not a list"),
    Row("annotations null", section("annotations", None), refused="'annotations' is not a list"),
    Row("categories as texts", section("categories", ["ball"]), refused=r"entry of 'categories' is not an object: 1\n.*\[0\]: \"ball\""),
    Row("empty", raw(lambda content: b""), refused=r"own\.json is not json: it is empty"),
    Row("cut off", raw(cut), refused=r"own\.json is not json: .*line 1 column"),
    Row("byte order mark", raw(lambda content: b"\xef\xbb\xbf" + content)),
    Row("UTF-16", raw(lambda content: content.decode().encode("utf-16"))),
    Row("UTF-32", raw(lambda content: content.decode().encode("utf-32"))),
    Row("Latin-1", all_of(category(name="Bär"), raw(lambda content: content.decode().encode("latin-1"))), refused="is no text in UTF-8"),
    Row("compressed", raw(gzip.compress), refused="compressed by gzip, unpack it"),
    Row("a page", raw(lambda content: b"<html>404</html>"), refused=r"own\.json is not json"),
    Row("detection results", raw(lambda content: b'[{"image_id": 1, "score": 0.5}]'), refused="top level is a list"),
    Row("nested deeply", raw(lambda content: b"[" * 200000), refused="nests lists or objects too deeply"),
    Row("a number of 5000 digits", raw(lambda content: b'{"images": ' + b"9" * 5000 + b"}"), refused="is not json: Exceeds the limit"),
    Row("no list of images", section("images", None), refused="'images' is not a list"),
    Row("no annotations to train on", lambda own: own.content.pop("annotations"), refused="'annotations' is missing.*only be evaluated on"),
    Row("images empty", all_of(section("images", []), section("annotations", [])), refused="lists no images"),
    Row("categories empty", all_of(section("categories", []), section("annotations", [])), refused="lists no categories"),
]

FIELDS = [
    Row(
        "null among annotations",
        lambda own: own.content["annotations"].append(None),
        refused=r"not an object: 1\n    annotations\[6\]: null",
    ),
    Row("width as text", image(width="64"), refused=r"'width' of 'images' is not a whole number of pixels.*\n    images\[0\]: \"64\""),
    Row("width as decimal", image(width=64.0), says=r"put right: 'width' as decimal number \(1\)"),
    Row("width null", image(width=None), refused=r"images\[0\]: null"),
    Row("width of an image is huge", image(width=10**30), refused="'width' of 'images' is not"),
    Row("width zero", image(width=0), refused="'width' of 'images' is not"),
    Row("file name null", image(file_name=None), refused="'file_name' of 'images' is not a name"),
    Row("file name a number", image(file_name=5), refused="'file_name' of 'images' is not a name"),
    Row("file name with half a character", image(file_name="\ud800.png"), refused="'file_name' of 'images' is not a name"),
    Row("name a number", category(name=7), says="AP of the classes: 7 "),
    Row("name null", category(name=None), refused="'name' of 'categories' is not a name"),
    Row(
        "two categories of one name",
        category(name="cube"),
        says=r"2 categories are named 'cube' \(ids 1, 2\)[\s\S]*cube \(id 1\) .*cube \(id 2\)",
    ),
    Row("iscrowd null", every(iscrowd=None), says=r"'iscrowd' null \(6\)", holds=num_trained(6)),
    Row("iscrowd missing", without("annotations", "iscrowd"), says=r"'iscrowd' missing \(6\)", holds=num_trained(6)),
    Row("iscrowd true or false", every(iscrowd=False), says=r"'iscrowd' as true or false \(6\)", holds=num_trained(6)),
    Row("iscrowd 2", first(iscrowd=2), refused=r"'iscrowd' of 'annotations' is not 0 or 1: 1"),
    Row("area null", every(area=None), says=r"'area' null \(6\)"),
    Row("area missing", without("annotations", "area"), says=r"'area' missing \(6\)"),
    Row("iscrowd as text", first(iscrowd="0"), refused=r"'iscrowd' of 'annotations' is not 0 or 1: 1\n    annotations\[0\]: \"0\""),
    Row("area negative", first(area=-3), refused="'area' of 'annotations' is not a finite number from 0 on"),
    Row("area not a number", first(area=float("nan")), refused="'area' of 'annotations' is not a finite number from 0 on"),
    Row("area as text", first(area="360"), refused="'area' of 'annotations' is not"),
    Row("num_keypoints null", all_of(keypoints, every(num_keypoints=None)), says=r"'num_keypoints' null \(6\)"),
    Row("keypoints null", first(keypoints=None)),
    Row("keypoints of a wrong length", all_of(keypoints, first(keypoints=[1, 2, 2])), refused="keypoints of a wrong length: 1"),
    Row(
        "keypoints with null",
        all_of(keypoints, first(keypoints=[1, 2, None, 1, 2, 2])),
        refused="'keypoints' .* not a list of finite numbers",
    ),
    Row("ignore 1", first(ignore=1), refused="'ignore' of 'annotations' is not 0"),
    Row("box null", first(bbox=None), refused=r"box is not four finite numbers: 1\n    annotation 1 of 1\.png: null, image 64x48"),
    Row("box null, fixed", first(bbox=None), ("DATASETS.ON_BAD_BOX", "fix"), says="1 boxes are clipped or left out", holds=num_trained(5)),
    Row("box of texts", first(bbox=["1", "2", "3", "4"]), refused="box is not four finite numbers"),
    Row("box beyond all numbers", first(bbox=[0, 0, 1e308, 1e308]), refused="box is not four finite numbers"),
    Row("box of corners", every(bbox=[30, 10, 60, 45]), refused="box sticks out of the image by more than 2 pixels: 6"),
    Row("box outside", first(bbox=[100, 100, 5, 5]), refused="box lies outside the image"),
    Row(
        "several kinds at once",
        all_of(first(bbox=[1, 1, 0, 5]), image(width="64"), category(name=None), lambda own: own.image(3).unlink()),
        refused=r"'name' of[\s\S]*'width' of[\s\S]*image file is missing: 1\n    3\.png\nCorrect the file; for images",
    ),
    Row("own name begins with coco_", first(bbox=[1, 1, 0, 5]), ("DATASETS.NAME", "coco_mine"), "zero or negative size"),
]

IDS = [
    Row("annotation ids as text", lambda own: [each.update(id=f"a{each['id']}") for each in own.content["annotations"]]),
    Row(
        "image ids as text",
        lambda own: [
            each.update({key: f"img {each[key]}"})
            for name, key in (("images", "id"), ("annotations", "image_id"))
            for each in own.content[name]
        ],
        holds=lambda outcome: {each["image_id"] for each in outcome.detections} <= {f"img {i}" for i in (1, 2, 3, 4)},
    ),
    Row(
        "image ids beyond 64 bits",
        lambda own: [
            each.update({key: each[key] + 2**64})
            for name, key in (("images", "id"), ("annotations", "image_id"))
            for each in own.content[name]
        ],
        holds=lambda outcome: (
            {each["image_id"] for each in outcome.detections} <= {i + 2**64 for i in (1, 2, 3, 4)} and outcome.detections != []
        ),
    ),
    Row(
        "category ids 0 and -5",
        lambda own: [
            each.update({key: {1: 0, 2: -5}[each[key]]})
            for name, key in (("categories", "id"), ("annotations", "category_id"))
            for each in own.content[name]
        ],
        says="AP of the classes: cube .* ball",
    ),
    Row("annotation id repeated", first(id=3), says="annotation id repeated", holds=num_trained(6)),
    Row("image id repeated", image(id=2), refused=r"id occurs twice in 'images': 1\n    id 2: 2 times"),
    Row("image id as text in one place", first(image_id="1"), refused=r'image id without an image: 1\n.*image_id "1", but 1 is there'),
    Row("image id null", image(id=None), refused="'id' of 'images' is not a number or a text"),
    Row("category id a list", first(category_id=[1]), refused="'category_id' of 'annotations' is not a number or a text"),
]

FORMS: dict[str, Any] = {
    "empty": [], "empty polygon": [[]], "four numbers": [[1, 2, 3, 4]], "odd": [[1, 2, 3, 4, 5, 6, 7]], "pairs": [[1, 2], [3, 4], [5, 6]],
    "flat": [1, 2, 3, 4, 5, 6], "run lengths": RUNS, "run lengths of another size": {"size": [9, 9], "counts": [81]},
    "run lengths without counts": {"size": [48, 64]}, "text": "mask", "null in a polygon": [[None] * 6],
}  # fmt: skip

MASKS = [
    *(Row(f"box detector, mask {name}", every(segmentation=form), holds=num_trained(6)) for name, form in FORMS.items()),
    Row("LSNet for boxes, masks of four numbers", all_of(lsnet("bbox"), every(segmentation=[[1, 2, 3, 4]])), holds=num_trained(6)),
    Row("LSNet for masks, some missing", all_of(lsnet("segm"), first(segmentation=OUTLINE)), holds=num_trained(6)),
    Row(
        "LSNet for all tasks, masks of some alone",
        all_of(lsnet("bbox+segm+pose"), keypoints, first(segmentation=OUTLINE)),
        ("TEST.KEYPOINT_OKS_SIGMAS", "[0.1,0.1]"),
        says=r"5 of 6 objects have no mask; the loss of 'segm' leaves them out",
        holds=num_trained(6),
    ),
    Row(
        "LSNet for all tasks, no mask at all",
        all_of(lsnet("bbox+segm+pose"), keypoints),
        ("TEST.KEYPOINT_OKS_SIGMAS", "[0.1,0.1]"),
        r"MODEL\.LSNET\.TASKS names 'segm', but none of the 6 objects of custom_train \(\S*own\.json\) has a mask",
    ),
    Row("LSNet for masks, four numbers", all_of(lsnet("segm"), first(segmentation=[[1, 2, 3, 4]])), refused="fewer than three points"),
    Row("LSNet for masks, flat", all_of(lsnet("segm"), first(segmentation=[1, 2, 3, 4, 5, 6])), refused="stands alone, not in a list"),
    Row(
        "LSNet for masks, other size",
        all_of(lsnet("segm"), first(segmentation={"size": [64, 48], "counts": [3072]})),
        refused=r"'size' of run lengths is not height and width of the image: 1\n    annotations\[0\] \(id 1\) of 1\.png",
    ),
    Row(
        "LSNet for masks, no counts", all_of(lsnet("segm"), first(segmentation={"size": [48, 64]})), refused="not an object with 'size' and"
    ),
    Row(
        "LSNet for masks, too few",
        all_of(lsnet("segm"), first(segmentation={"size": [48, 64], "counts": [5]})),
        refused="do not fill the image",
    ),
    Row(
        "LSNet for masks, text",
        all_of(lsnet("segm"), first(segmentation={"size": [48, 64], "counts": "~~~"})),
        refused="do not fill the image",
    ),
]

NOTHING = [
    Row(
        "no objects",
        section("annotations", []),
        refused=r"no object to train on in custom_train \(\S*own\.json\): the files list no annotations",
    ),
    Row("all crowd", every(iscrowd=1), refused=r"no object to train on in custom_train \(\S*own\.json\): 6 crowds \('iscrowd' 1\)"),
    Row(
        "all boxes left out",
        every(bbox=[1, 1, 0, 0]),
        ("DATASETS.ON_BAD_BOX", "fix"),
        r"no object to train on in custom_train \(\S*own\.json\): 6 left out",
    ),
    Row(
        "more lost than kept",
        lambda own: [each.update(iscrowd=1) for each in own.content["annotations"][:4]],
        says=r"only 2 objects are left to train on; more were lost: 4 crowds",
    ),
    Row(
        "no labeled keypoint",
        all_of(lsnet("pose"), keypoints, every(keypoints=[0] * 6)),
        ("TEST.KEYPOINT_OKS_SIGMAS", "[0.1,0.1]"),
        "6 without a labeled",
    ),
    Row("fractions", every(bbox=[0.1, 0.2, 0.3, 0.4]), says=r"100 % of the boxes lie within one pixel, as if they were fractions"),
    Row(
        "a class that never occurs",
        lambda own: own.content["categories"].append({"id": 9, "name": "cone"}),
        says="1 of 3 classes have no object to train on: cone",
    ),
    Row("tiny objects", every(bbox=[10, 10, 3, 4]), says=r"100 % of the objects are smaller than the 8 pixels"),
    Row(
        "no data set at all",
        lambda own: None,
        ("DATASETS.TRAIN_JSON", "", "DATASETS.VAL_JSON", "", "DATASETS.TRAIN", "()"),
        "DATASETS.TRAIN names no dataset",
    ),
]

VAL = ("DATASETS.VAL_JSON", "val.json")

EVALUATION = [
    Row(
        "test set without annotations",
        val_json(lambda content: content.pop("annotations")),
        VAL,
        says="detections saved; there are no annotations to compare them with",
        holds=lambda outcome: len(outcome.detections) == 40 and outcome.results == {},
    ),
    Row(
        "validation without objects",
        val_json(lambda content: content.update(annotations=[])),
        VAL,
        says="there is no AP, since the annotations hold no objects",
    ),
    Row(
        "validation of crowds",
        val_json(lambda content: [each.update(iscrowd=1) for each in content["annotations"]]),
        VAL,
        says="there is no AP, since all 6 annotations are crowds",
    ),
    Row(
        "nothing detected",
        lambda own: None,
        ("MODEL.ATSS.TEST.SCORE_THRESH", "0.999"),
        says="not a single detection passed the score threshold",
    ),
    Row(
        "more objects than detections",
        lambda own: own.content["annotations"].extend(annotation(100 + i, 1, 1, [i, i, 9, 9]) for i in range(20)),
        says=r"an image has 22 objects, but the model gives at most 10 detections \(TEST\.DETECTIONS_PER_IMAGE\)",
    ),
    Row(
        "sigmas of other keypoints",
        all_of(lsnet("pose"), keypoints),
        refused=r"KEYPOINT_OKS_SIGMAS gives 17 numbers.*custom_val have 2 keypoints",
    ),
    Row("keypoints of their own", all_of(lsnet("pose"), keypoints), ("TEST.KEYPOINT_OKS_SIGMAS", "[0.1,0.1]"), says="bbox: "),
    Row(
        "a model of more classes",
        lambda own: None,
        ("MODEL.ATSS.NUM_CLASSES", "50"),
        says=r"the model has more classes than the 2 of the dataset: \d+ of 40 detections are of the others and left out",
        holds=lambda outcome: "bbox" in outcome.results,
    ),
    Row("other classes in validation", val_json(lambda content: content["categories"].pop()), VAL, "category id without a category"),
]

ROWS = by_name(file=WHOLE_FILE, field=FIELDS, id=IDS, mask=MASKS, nothing=NOTHING, evaluation=EVALUATION)


@pytest.mark.parametrize("name", ROWS)
def test_annotation_file(own_data: OwnData, name: str) -> None:
    check_row(own_data, ROWS[name])


def test_one_of_two_data_sets_has_no_objects(own_data: OwnData) -> None:
    empty = own_data.root / "empty.json"
    empty.write_text(json.dumps({**own_data.content, "annotations": []}))
    own_data.write()
    for name, path in (("faults_full", own_data.json_file), ("faults_empty", empty)):
        register_coco_folder(name, path, own_data.root)
    words = ("DATASETS.TRAIN_JSON", "", "DATASETS.VAL_JSON", "", "DATASETS.TRAIN", "('faults_full', 'faults_empty')", "DATASETS.TEST", "()")
    try:
        assert_goes_through(own_data.run(*words), r"faults_empty: there is no object to train on in \S*empty\.json")
    finally:
        for name in ("faults_full", "faults_empty"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_several_processes_say_the_whole_message_once(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    own_data = OwnData(tmp_path, capfd)
    own_data.content["annotations"][0]["iscrowd"] = 7
    own_data.content["images"][1]["width"] = "64"
    outcome = own_data.run(flags=("--num-gpus", "2", "--dist-url", f"file://{own_data.root / 'meeting'}"))
    assert outcome.code == 3
    said = outcome.console
    assert said.count("error: ") == 1 and "Traceback" not in said
    assert re.search(
        r"used as it is \(\S*own\.json, [\s\S]*'iscrowd' of[\s\S]*annotations\[0\]: 7[\s\S]*images\[1\]: \"64\"[\s\S]*Correct", said
    )
