from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from pycocotools.coco import COCO

from detkit.config import get_cfg
from detkit.data import register_coco_folder, set_categories
from detkit.data.keypoints import COCO_PERSON_KEYPOINTS
from detkit.data.shapes import SHAPES_CLASSES, SHAPES_SETS, ShapesSpec, ensure_shapes, shapes_categories, shapes_paths
from detkit.data.shapes.annotations import traced_polygons
from detkit.data.shapes.scene import SUPERSAMPLING
from tests.toys.fixtures import SMALL_SPEC

from .shortcuts import color_features, shortcut_ap, size_features


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def coco_of(root: Path, split: str = "train") -> COCO:
    return COCO(str(shapes_paths(root, split)[0]))


def test_same_seed_gives_the_same_bytes(small_shapes: Path, tmp_path: Path) -> None:
    assert files_of(ensure_shapes(tmp_path / "again", SMALL_SPEC)) == files_of(small_shapes)


def test_another_seed_gives_other_pictures(small_shapes: Path, tmp_path: Path) -> None:
    other = files_of(ensure_shapes(tmp_path / "other", ShapesSpec(num_train=1, num_val=1, seed=1)))
    assert other["train/000000.jpg"] != (small_shapes / "train" / "000000.jpg").read_bytes()


def test_a_picture_does_not_depend_on_how_many_there_are(small_shapes: Path, tmp_path: Path) -> None:
    fewer = files_of(ensure_shapes(tmp_path / "fewer", ShapesSpec(num_train=2, num_val=1)))
    assert fewer["train/000001.jpg"] == (small_shapes / "train" / "000001.jpg").read_bytes()


def test_train_and_val_differ(small_shapes: Path) -> None:
    assert (small_shapes / "train" / "000000.jpg").read_bytes() != (small_shapes / "val" / "000000.jpg").read_bytes()


def test_people_are_all_persons_with_keypoints(tmp_path: Path) -> None:
    spec = replace(SHAPES_SETS["shapes_people"], num_train=6, num_val=1)
    coco = coco_of(ensure_shapes(tmp_path / "shapes_people", spec))
    assert [category["name"] for category in coco.cats.values()] == ["person"]
    assert len(coco.anns) > 6 and all(a["category_id"] == 1 and len(a["keypoints"]) == 51 for a in coco.anns.values())
    assert max(len(annotations) for annotations in coco.imgToAnns.values()) <= spec.max_objects
    assert MetadataCatalog.get("shapes_people_val").thing_classes == ["person"]


def test_classes_keep_their_ids(tmp_path: Path) -> None:
    coco = coco_of(ensure_shapes(tmp_path / "two", ShapesSpec(num_train=4, num_val=1, classes=("star", "ring"))))
    ids = {SHAPES_CLASSES.index(name) + 1 for name in ("star", "ring")}
    assert set(coco.cats) == ids and {a["category_id"] for a in coco.anns.values()} <= ids


def test_existing_data_is_left_alone(small_shapes: Path) -> None:
    before = (small_shapes / "train").stat().st_mtime_ns
    ensure_shapes(small_shapes, SMALL_SPEC)
    assert (small_shapes / "train").stat().st_mtime_ns == before


def _ensure(root: Path) -> None:
    ensure_shapes(root, ShapesSpec(num_train=2, num_val=1))


def test_processes_do_not_race(tmp_path: Path) -> None:
    root = tmp_path / "cache" / "shapes"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_ensure, args=(root,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(files_of(root)) == 2 + 2 + 1
    assert {path.name for path in root.parent.iterdir()} <= {"shapes", "shapes.lock"}


def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("detkit.data.shapes.dataset.annotate_scene", fail)
    with pytest.raises(KeyboardInterrupt):
        ensure_shapes(tmp_path / "shapes", SMALL_SPEC)
    assert {path.name for path in tmp_path.iterdir()} <= {"shapes.lock"}


def test_unwritable_cache_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Set the environment variable DETKIT_CACHE"):
        ensure_shapes(tmp_path / "file" / "shapes", SMALL_SPEC)


@pytest.mark.parametrize("split", ["train", "val"])
def test_box_mask_and_area_agree(small_shapes: Path, split: str) -> None:
    coco = coco_of(small_shapes, split)
    assert coco.anns
    for annotation in coco.anns.values():
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in annotation["segmentation"]])
        left, top, width, height = annotation["bbox"]
        bounds = np.concatenate([points.min(0), points.max(0)])
        np.testing.assert_allclose(bounds, [left, top, left + width, top + height], atol=0.35)
        # a polygon rasterized to whole pixels differs along its outline only
        outline = sum(cv2.arcLength(np.float32(polygon).reshape(-1, 1, 2), True) for polygon in annotation["segmentation"])
        assert abs(coco.annToMask(annotation).sum() - annotation["area"]) <= 2 + 0.2 * outline


def test_annotations_lie_inside_the_image(small_shapes: Path) -> None:
    coco = coco_of(small_shapes)
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        left, top, width, height = annotation["bbox"]
        assert left >= 0 and top >= 0 and left + width <= image["width"] and top + height <= image["height"]
        assert annotation["category_id"] in coco.cats


def test_files_have_the_annotated_size(small_shapes: Path) -> None:
    for image in coco_of(small_shapes).imgs.values():
        height, width = cv2.imread(str(small_shapes / "train" / image["file_name"])).shape[:2]
        assert (width, height) == (image["width"], image["height"])


def test_keypoints_of_persons(small_shapes: Path) -> None:
    coco = coco_of(small_shapes)
    seen_flags = set()
    for annotation in coco.anns.values():
        keypoints = np.reshape(annotation["keypoints"], (17, 3))
        assert annotation["num_keypoints"] == (keypoints[:, 2] > 0).sum()
        if coco.cats[annotation["category_id"]]["name"] != "person":
            assert not keypoints.any()
            continue
        seen_flags |= set(keypoints[:, 2].tolist())
        mask = np.pad(cv2.dilate(coco.annToMask(annotation), np.ones((3, 3), np.uint8)), (0, 1), mode="edge")
        columns, rows = keypoints[keypoints[:, 2] == 2, :2].round().astype(int).T
        assert mask[rows, columns].all()
        assert not keypoints[keypoints[:, 2] == 0].any()
    assert 2 in seen_flags


def test_hole_stays_open() -> None:
    mask = np.zeros((80, 80), dtype=bool)
    mask[8:72, 8:72] = True
    mask[24:56, 24:56] = False
    polygons = traced_polygons(mask, np.array([40, 0]))
    assert len(polygons) == 1
    coco = COCO()
    coco.imgs = {1: {"width": 40, "height": 20}}
    filled = coco.annToMask({"image_id": 1, "segmentation": [polygons[0].ravel().tolist()]})
    expected = np.pad(mask[::SUPERSAMPLING, ::SUPERSAMPLING], ((0, 0), (10, 10)))
    assert np.abs(filled.astype(int) - expected).sum() <= 2 * 4 * 16 * 0.25
    assert not filled[10, 20]


def test_detectron2_maps_boxes_masks_and_keypoints(small_shapes: Path) -> None:
    register_coco_folder("small_shapes_train", *shapes_paths(small_shapes, "train"))
    set_categories("small_shapes_train", shapes_categories())
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("small_shapes_train",)
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
    mapper = DatasetMapper(cfg, is_train=True)
    dicts = load_coco_json(*map(str, shapes_paths(small_shapes, "train")), "small_shapes_train")
    with_objects = next(record for record in dicts if len(record["annotations"]) > 2)
    instances = mapper(with_objects)["instances"]
    assert instances.gt_keypoints.tensor.shape == (len(instances), 17, 3)
    assert len(instances.gt_masks) == len(instances.gt_classes) == len(with_objects["annotations"])


def test_registered_metadata() -> None:
    metadata = MetadataCatalog.get("shapes_train")
    assert metadata.thing_classes == list(SHAPES_CLASSES)
    assert tuple(metadata.keypoint_names) == COCO_PERSON_KEYPOINTS
    flipped = create_keypoint_hflip_indices("shapes_val")
    assert [COCO_PERSON_KEYPOINTS[i] for i in flipped[:3]] == ["nose", "right_eye", "left_eye"]


@pytest.mark.slow
def test_the_whole_set(tmp_path: Path) -> None:
    """Objects of all sizes, balanced classes, empty pictures; and neither color nor size tells the class."""
    root = ensure_shapes(tmp_path / "shapes")
    content = json.loads(shapes_paths(root, "train")[0].read_text())
    sizes = np.sqrt([a["bbox"][2] * a["bbox"][3] for a in content["annotations"]])
    assert sizes.min() < 9 and sizes.max() > 200
    small, medium, large = np.histogram([a["area"] for a in content["annotations"]], [0, 32**2, 96**2, np.inf])[0] / len(sizes)
    assert min(small, medium, large) > 0.1
    counts = np.bincount([a["category_id"] for a in content["annotations"]])[1:]
    assert len(counts) == len(SHAPES_CLASSES) and counts.min() > 0.75 * counts.mean()
    with_objects = {a["image_id"] for a in content["annotations"]}
    assert 0 < len(content["images"]) - len(with_objects) < 0.1 * len(content["images"])
    keypoints = np.array([a["keypoints"] for a in content["annotations"] if a["num_keypoints"]]).reshape(-1, 17, 3)
    assert set(np.unique(keypoints[..., 2])) == {0, 1, 2}
    for features in (size_features, color_features):
        assert max(shortcut_ap(root, features).values()) < 20
