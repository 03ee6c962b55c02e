"""What people who bring data of their own have reported, and its siblings: input, and what the command line makes of it.

Every row runs ``run()`` on four small images: it trains two iterations and evaluates, or ends with one message.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from tests.toys.own_data import SIZE, Outcome, OwnData, annotation, two_iterations

Change = Callable[[OwnData], Any]


@dataclass(frozen=True)
class Row:
    """One report.

    Attributes:
        name: what is special about the data.
        change: makes it so.
        words: further words of the command line.
        refused: the message, as a regular expression; "" where the run goes through.
        says: what else the console shows.
        holds: what is true of the outcome.
    """

    name: str
    change: Change
    words: tuple[str, ...] = ()
    refused: str = ""
    says: str = ""
    holds: Callable[[Outcome], bool] = lambda outcome: True


def first(**fields: Any) -> Change:
    """Fields of the first annotation."""
    return lambda own: own.content["annotations"][0].update(fields)


def every(**fields: Any) -> Change:
    """Fields of all annotations."""
    return lambda own: [each.update(fields) for each in own.content["annotations"]]


def without(section: str, *keys: str) -> Change:
    return lambda own: [each.pop(key) for each in own.content[section] for key in keys]


def image(**fields: Any) -> Change:
    return lambda own: own.content["images"][0].update(fields)


def category(**fields: Any) -> Change:
    return lambda own: own.content["categories"][0].update(fields)


def raw(make: Callable[[bytes], bytes]) -> Change:
    def change(own: OwnData) -> None:
        own.raw = make(json.dumps(own.content, ensure_ascii=False).encode())

    return change


def section(name: str, value: Any) -> Change:
    return lambda own: own.content.update({name: value})


def saved(name: str, picture: Any, **options: Any) -> Change:
    """The first image in another format or depth."""

    def change(own: OwnData) -> None:
        Image.fromarray(picture).save(own.root / name, **options)
        own.content["images"][0]["file_name"] = name

    return change


def broken(name: str, damage: Callable[[bytes], bytes]) -> Change:
    """The first image in the format of a name, damaged."""

    def change(own: OwnData) -> None:
        path = own.root / name
        Image.open(own.image(1)).save(path)
        path.write_bytes(damage(path.read_bytes()))
        own.content["images"][0]["file_name"] = name

    return change


def all_of(*changes: Change) -> Change:
    return lambda own: [change(own) for change in changes]


def lsnet(task: str) -> Change:
    def change(own: OwnData) -> None:
        cfg = two_iterations("LSNet")
        cfg.INPUT.MAPPER, cfg.MODEL.LSNET.TASK = "LandmarkMapper", task
        cfg.MODEL.LSNET.HEAD.DEFORMABLE_TOWERS = False
        if task == "pose":
            cfg.MODEL.LSNET.NUM_KEYPOINTS = 2
        own.write_config(cfg)

    return change


def keypoints(own: OwnData) -> None:
    for each in own.content["categories"]:
        each["keypoints"] = ["left", "right"]
    for each in own.content["annotations"]:
        each |= {"keypoints": [6, 8, 2, 20, 14, 1], "num_keypoints": 2}


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def wrong_block(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(100) + content[middle + 100 :]


def num_trained(count: int) -> Callable[[Outcome], bool]:
    """As many objects in the training set."""
    return lambda outcome: sum(len(record["annotations"]) for record in DatasetCatalog.get("custom_train")) == count


RAMP = np.linspace(0, 60000, SIZE[0] * SIZE[1]).reshape(SIZE)
RUNS = {"size": [48, 64], "counts": [100, 20, 48 * 64 - 120]}
OUTLINE = [[4, 6, 20, 6, 12, 20]]

WHOLE_FILE = [
    Row("no such file", lambda own: None, ("DATASETS.TRAIN_JSON", "gone.json"), r"gone\.json does not exist\. Correct its name"),
    Row("a folder", lambda own: None, ("DATASETS.TRAIN_JSON", "/tmp"), "/tmp is a folder or a device"),
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


def val_json(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Another annotation file for validation."""

    def write(own: OwnData) -> None:
        content = json.loads(json.dumps(own.content))
        change(content)
        (own.root / "val.json").write_text(json.dumps(content))

    return write


def in_validation(damage: Callable[[bytes], bytes]) -> Change:
    """A fifth image, damaged, with an object, in validation alone."""

    def change(own: OwnData) -> None:
        path = own.root / "bad.png"
        Image.open(own.image(1)).save(path)
        path.write_bytes(damage(path.read_bytes()))
        val_json(lambda content: content["images"].append({"id": 9, "file_name": "bad.png", "width": 64, "height": 48}))(own)

    return change


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
    Row("a folder", lambda own: [own.image(1).unlink(), own.image(1).mkdir()], refused="cannot be read"),
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
        "so thin that nothing is left",
        all_of(saved("thin.png", np.zeros((3000, 1, 3), np.uint8)), image(width=1, height=3000), every(bbox=[0, 0, 1, 20])),
        refused=r"so thin that nothing is left when it is resized: 1\n    thin\.png: 1x3000",
    ),
    Row(
        "so thin that nothing is left, in validation",
        all_of(
            lambda own: Image.new("RGB", (1, 3000)).save(own.root / "thin.png"),
            val_json(lambda content: content["images"].append({"id": 9, "file_name": "thin.png", "width": 1, "height": 3000})),
        ),
        VAL,
        r"The dataset custom_val .*\n  image is so thin that nothing is left",
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

KINDS = {
    "file": WHOLE_FILE,
    "field": FIELDS,
    "id": IDS,
    "mask": MASKS,
    "nothing": NOTHING,
    "evaluation": EVALUATION,
    "image": IMAGES,
    "key": KEYS,
}
ROWS = {f"{kind}: {row.name}": row for kind, rows in KINDS.items() for row in rows}


@pytest.mark.parametrize("name", ROWS)
def test_report(own_data: OwnData, name: str) -> None:
    row = ROWS[name]
    row.change(own_data)
    words = [str(own_data.root / word) if word == "val.json" else word for word in row.words]
    outcome = own_data.run(*words)
    assert "Traceback" not in outcome.console
    if row.refused:
        assert outcome.message is not None and outcome.message.startswith("error: "), outcome.console
        assert re.search(row.refused, outcome.message), outcome.message
    else:
        assert outcome.message is None, outcome.message
        assert re.search(row.says, outcome.console), outcome.console
        assert row.holds(outcome)


def test_several_processes_say_the_whole_message_once(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    own_data = OwnData(tmp_path, capfd)
    own_data.content["annotations"][0]["iscrowd"] = 7
    own_data.content["images"][1]["width"] = "64"
    outcome = own_data.run(flags=("--num-gpus", "2", "--dist-url", f"file://{own_data.root / 'meeting'}"))
    assert outcome.code == 1
    said = outcome.console
    assert said.count("error: ") == 1 and "Traceback" not in said
    assert re.search(
        r"used as it is \(\S*own\.json, [\s\S]*'iscrowd' of[\s\S]*annotations\[0\]: 7[\s\S]*images\[1\]: \"64\"[\s\S]*Correct", said
    )


def test_there_are_enough_rows() -> None:
    assert len(ROWS) >= 60
