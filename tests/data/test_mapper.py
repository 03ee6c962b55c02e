from __future__ import annotations

import logging

import pytest
from detectron2.data import DatasetCatalog, build_detection_train_loader

from detkit.config import get_cfg
from detkit.data import DataError, build_train_mapper, register_coco_folder
from tests.toys.datasets import CocoFolder


def records_of(folder: CocoFolder) -> list[dict]:
    register_coco_folder("mapped", folder.json_file, folder.image_root)
    return DatasetCatalog.get("mapped")


def test_sound_image_is_mapped(coco_folder: CocoFolder) -> None:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (96,)
    mapped = build_train_mapper(cfg)(records_of(coco_folder)[0])
    assert mapped["image"].shape == (3, 96, 128)
    box = mapped["instances"].gt_boxes.tensor[0].tolist()
    assert box in ([8, 10, 48, 42], [80, 10, 120, 42])  # plain or mirrored


def test_short_side_is_drawn_from_a_list(coco_folder: CocoFolder) -> None:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (48, 96)
    mapper, record = build_train_mapper(cfg), records_of(coco_folder)[0]
    assert {mapper(record)["image"].shape[1] for _ in range(30)} == {48, 96}


def test_image_without_objects_is_mapped(coco_folder: CocoFolder) -> None:
    record = {**records_of(coco_folder)[0], "annotations": []}
    assert build_train_mapper(get_cfg())(record)["instances"].gt_boxes.tensor.shape == (0, 4)


def test_image_that_breaks_while_training(coco_folder: CocoFolder) -> None:
    records = records_of(coco_folder)
    coco_folder.image(2).write_bytes(coco_folder.image(2).read_bytes()[:300])
    with pytest.raises(DataError, match=r"2\.jpg \(id 2\) cannot be used: .*DATASETS.ON_BAD_IMAGE \"skip\""):
        build_train_mapper(get_cfg())(records[1])


def test_image_that_changes_size_while_training(coco_folder: CocoFolder) -> None:
    record = {**records_of(coco_folder)[0], "width": 63}
    with pytest.raises(DataError, match=r"1\.jpg \(id 1\) cannot be used: Mismatched image shape"):
        build_train_mapper(get_cfg())(record)


def test_skipped_image_is_replaced_and_named_once(coco_folder: CocoFolder, caplog: pytest.LogCaptureFixture) -> None:
    records = records_of(coco_folder)
    coco_folder.image(2).unlink()
    cfg = get_cfg()
    cfg.DATASETS.ON_BAD_IMAGE = "skip"
    loader = iter(build_detection_train_loader(records, mapper=build_train_mapper(cfg), total_batch_size=3, num_workers=0))
    with caplog.at_level(logging.WARNING, "detkit"):
        seen = {mapped["image_id"] for _ in range(4) for mapped in next(loader)}
    assert seen == {1, 3}
    named = [record.message for record in caplog.records if record.name.startswith("detkit")]
    assert len(named) == 1 and "(1 so far)" in named[0] and "2.jpg (id 2)" in named[0]


def test_images_without_objects_train_by_default(coco_folder: CocoFolder) -> None:
    assert get_cfg().DATALOADER.FILTER_EMPTY_ANNOTATIONS is False
