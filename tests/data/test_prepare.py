from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from detkit.config import ConfigError, get_cfg
from detkit.data import DataError, find_image_folder, prepare_datasets, register_coco_folder, register_shapes
from detkit.data.keypoints import connection_rules, flip_map
from tests.toys.datasets import CocoFolder


def config(folder: CocoFolder | None = None, tmp_path: Path | None = None, *overrides: Any, method: str = "FCOS") -> Any:
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = method
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    if folder is not None:
        cfg.DATASETS.TRAIN_JSON = cfg.DATASETS.VAL_JSON = str(folder.json_file)
    if tmp_path is not None:
        cfg.OUTPUT_DIR = str(tmp_path / "output")
    cfg.merge_from_list(list(overrides))
    return cfg


def perfect_ap(name: str, tmp_path: Path) -> dict[str, float]:
    """What COCOEvaluator gives for the ground truth itself."""
    import torch

    evaluator = COCOEvaluator(name, tasks=("bbox",), distributed=False, output_dir=str(tmp_path), use_fast_impl=False)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        instances = Instances((record["height"], record["width"]))
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]]
        instances.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
        instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        instances.scores = torch.ones(len(boxes))
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


# own files ------------------------------------------------------------------------------------------------------------------------------


def test_own_data_needs_two_keys(coco_folder: CocoFolder, tmp_path: Path) -> None:
    cfg = config(coco_folder, tmp_path, "DATASETS.TRAIN", ("coco_2017_train",), "DATASETS.NAME", "balls")
    prepare_datasets(cfg)
    assert cfg.DATASETS.TRAIN == ("balls_train",) and cfg.DATASETS.TEST == ("balls_val",)
    assert MetadataCatalog.get("balls_train").thing_classes == ["ball", "cube"]
    assert [record["annotations"][0]["category_id"] for record in DatasetCatalog.get("balls_train")] == [0, 1, 0]
    assert Path(DatasetCatalog.get("balls_val")[0]["file_name"]) == coco_folder.image(1)
    assert perfect_ap("balls_val", tmp_path)["AP"] == pytest.approx(100)


def test_image_folder_may_be_named(coco_folder: CocoFolder, tmp_path: Path) -> None:
    moved = coco_folder.image_root.rename(tmp_path / "elsewhere")
    prepare_datasets(config(coco_folder, tmp_path, "DATASETS.TRAIN_IMAGES", str(moved), "DATASETS.VAL_IMAGES", str(moved)))
    assert Path(DatasetCatalog.get("custom_train")[0]["file_name"]) == moved / "1.jpg"


def test_folder_of_images_is_not_found(coco_folder: CocoFolder, tmp_path: Path) -> None:
    coco_folder.image_root.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"the first is 1\.jpg.*DATASETS.TRAIN_IMAGES"):
        prepare_datasets(config(coco_folder, tmp_path))
    with pytest.raises(DataError, match="DATASETS.TRAIN_IMAGES: there is no folder /nowhere"):
        prepare_datasets(config(coco_folder, tmp_path, "DATASETS.TRAIN_IMAGES", "/nowhere"))


def test_training_without_validation(coco_folder: CocoFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = config(coco_folder, tmp_path, "DATASETS.VAL_JSON", "", "DATASETS.TEST", ("coco_2017_val",))
    with caplog.at_level(logging.INFO):
        prepare_datasets(cfg)
    assert cfg.DATASETS.TRAIN == ("custom_train",) and cfg.DATASETS.TEST == ()
    assert "will not be evaluated" in caplog.text


def test_evaluation_does_not_look_at_training_data(coco_folder: CocoFolder, tmp_path: Path) -> None:
    cfg = config(coco_folder, tmp_path, "DATASETS.TRAIN_JSON", "gone.json")
    prepare_datasets(cfg, eval_only=True)
    assert cfg.DATASETS.TEST == ("custom_val",) and cfg.MODEL.FCOS.NUM_CLASSES == 2


def test_preparing_twice_is_preparing_once(coco_folder: CocoFolder, tmp_path: Path) -> None:
    cfg = config(coco_folder, tmp_path)
    prepare_datasets(cfg)
    first = cfg.dump()
    prepare_datasets(cfg)
    assert cfg.dump() == first


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["DATASETS.ON_BAD_IMAGE", "ignore"], "DATASETS.ON_BAD_IMAGE is 'ignore'. It has to be one of 'error', 'skip'"),
        (["DATASETS.ON_BAD_BOX", "skip"], "DATASETS.ON_BAD_BOX is 'skip'. It has to be one of 'error', 'fix'"),
        (["DATASETS.VAL_IMAGES", "images"], "set DATASETS.VAL_JSON too"),
        (["DATASETS.TRAIN", ("shapes_trian",)], "'shapes_trian', which is not registered. Did you mean 'shapes_train'?"),
    ],
)
def test_impossible_keys(overrides: list[Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prepare_datasets(config(None, None, *overrides))


# number of classes ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, section", [("FCOS", "FCOS"), ("ATSS", "ATSS"), ("RetinaNet", "RETINANET"), ("GeneralizedRCNN", "ROI_HEADS")]
)
def test_number_of_classes_is_inferred(coco_folder: CocoFolder, tmp_path: Path, method: str, section: str) -> None:
    cfg = config(coco_folder, tmp_path, method=method)
    prepare_datasets(cfg)
    assert cfg.MODEL[section].NUM_CLASSES == 2


def test_model_with_fewer_classes(coco_folder: CocoFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1 classes \(MODEL.FCOS.NUM_CLASSES\), fewer than the 2 of custom_train \(ball, cube\)"):
        prepare_datasets(config(coco_folder, tmp_path, "MODEL.FCOS.NUM_CLASSES", 1))


def test_model_with_more_classes_is_kept_and_named(coco_folder: CocoFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = config(coco_folder, tmp_path, "MODEL.FCOS.NUM_CLASSES", 5)
    with caplog.at_level(logging.WARNING):
        prepare_datasets(cfg)
    assert cfg.MODEL.FCOS.NUM_CLASSES == 5 and "5 classes" in caplog.text


def test_inference_may_be_switched_off(coco_folder: CocoFolder, tmp_path: Path) -> None:
    cfg = config(coco_folder, tmp_path, "DATASETS.INFER_NUM_CLASSES", False)
    prepare_datasets(cfg)
    assert cfg.MODEL.FCOS.NUM_CLASSES == 80


def test_different_classes_in_train_and_val(make_coco_folder: Callable[[str], CocoFolder], tmp_path: Path) -> None:
    train, val = make_coco_folder("a"), make_coco_folder("b")
    val.content["categories"][1]["name"] = "cone"
    val.write()
    with pytest.raises(DataError, match="custom_train and custom_val have different classes: ball, cube and ball, cone"):
        prepare_datasets(config(train, tmp_path, "DATASETS.VAL_JSON", str(val.json_file)))


# repaired copies ------------------------------------------------------------------------------------------------------------------------


def test_skipped_images_are_neither_trained_nor_evaluated(coco_folder: CocoFolder, tmp_path: Path) -> None:
    coco_folder.image(2).write_bytes(b"")
    with pytest.raises(DataError, match="custom_train cannot be used"):
        prepare_datasets(config(coco_folder, tmp_path))
    prepare_datasets(config(coco_folder, tmp_path, "DATASETS.ON_BAD_IMAGE", "skip"))
    assert [record["image_id"] for record in DatasetCatalog.get("custom_train")] == [1, 3]
    metadata = MetadataCatalog.get("custom_val")
    assert Path(metadata.json_file) == tmp_path / "output" / "datasets" / "custom_val.json"
    assert perfect_ap("custom_val", tmp_path)["AP"] == pytest.approx(100)
    assert json.loads(coco_folder.json_file.read_text()) == coco_folder.content


def test_classes_are_numbered_by_their_ids(coco_folder: CocoFolder, tmp_path: Path) -> None:
    """In whatever order the file lists them."""
    coco_folder.content["categories"].reverse()
    coco_folder.write()
    prepare_datasets(config(coco_folder, tmp_path))
    metadata = MetadataCatalog.get("custom_train")
    assert metadata.thing_classes == ["ball", "cube"] and metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert [record["annotations"][0]["category_id"] for record in DatasetCatalog.get("custom_train")] == [0, 1, 0]


def test_metadata_survive_a_repair(coco_folder: CocoFolder, tmp_path: Path) -> None:
    """Keypoints, colors and whatever else stands there mean the copy too, from which training and evaluation then read."""
    coco_folder.content["categories"][0] |= {"keypoints": ["left_end", "right_end"], "skeleton": [[1, 2]]}
    coco_folder.content["annotations"][1]["bbox"] = [-8, 10, 20, 16]
    for annotation in coco_folder.content["annotations"]:
        if annotation["category_id"] == 3:
            annotation |= {"keypoints": [1, 1, 2, 3, 3, 2], "num_keypoints": 2}
    coco_folder.write()
    register_coco_folder("repaired", coco_folder.json_file, coco_folder.image_root)
    MetadataCatalog.get("repaired").set(thing_colors=[[1, 2, 3], [4, 5, 6]], my_own="note")
    cfg = config(None, tmp_path, "DATASETS.TEST", ("repaired",), "DATASETS.ON_BAD_BOX", "fix")
    prepare_datasets(cfg)
    metadata = MetadataCatalog.get("repaired")
    assert Path(metadata.json_file) == Path(cfg.OUTPUT_DIR) / "datasets" / "repaired.json"
    assert metadata.thing_colors == [[1, 2, 3], [4, 5, 6]] and metadata.my_own == "note"
    assert metadata.evaluator_type == "coco" and Path(metadata.image_root) == coco_folder.image_root
    records = DatasetCatalog.get("repaired")
    assert [record["annotations"][0]["bbox"] for record in records] == [[4, 5, 20, 16], [0, 10, 12, 16], [12, 5, 20, 16]]
    assert metadata.thing_classes == ["ball", "cube"] and metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert metadata.keypoint_names == ["left_end", "right_end"]


def test_json_without_areas_can_be_evaluated(coco_folder: CocoFolder, tmp_path: Path) -> None:
    del coco_folder.content["info"]
    for annotation in coco_folder.content["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    coco_folder.write()
    prepare_datasets(config(coco_folder, tmp_path))
    assert perfect_ap("custom_val", tmp_path)["AP"] == pytest.approx(100)


def test_encoded_masks_need_bitmasks(coco_folder: CocoFolder, tmp_path: Path) -> None:
    for annotation in coco_folder.content["annotations"]:
        annotation["segmentation"] = {"size": [48, 64], "counts": [100, 20, 48 * 64 - 120]}
    coco_folder.write()
    with pytest.raises(ConfigError, match=r"3 annotations \(the first is 1\) are run-length encoded.*Set INPUT.MASK_FORMAT bitmask"):
        prepare_datasets(config(coco_folder, tmp_path, "MODEL.MASK_ON", True))
    prepare_datasets(config(coco_folder, tmp_path, "MODEL.MASK_ON", True, "INPUT.MASK_FORMAT", "bitmask"))


# registration ---------------------------------------------------------------------------------------------------------------------------


def test_registration_is_lazy_and_may_be_repeated(coco_folder: CocoFolder) -> None:
    register_coco_folder("lazy", "/nowhere.json", "/nowhere")
    register_coco_folder("lazy", coco_folder.json_file, coco_folder.image_root)
    assert len(DatasetCatalog.get("lazy")) == 3


def test_keypoints_of_a_category_enter_the_metadata(coco_folder: CocoFolder) -> None:
    coco_folder.content["categories"][1] |= {"keypoints": ["tip", "left_wing", "right_wing"], "skeleton": [[1, 2], [1, 3]]}
    coco_folder.write()
    register_coco_folder("winged", coco_folder.json_file, coco_folder.image_root)
    DatasetCatalog.get("winged")
    metadata = MetadataCatalog.get("winged")
    assert metadata.keypoint_flip_map == [("left_wing", "right_wing")]
    assert [rule[:2] for rule in metadata.keypoint_connection_rules] == [("tip", "left_wing"), ("tip", "right_wing")]


def test_mirror_pairs_by_name() -> None:
    assert flip_map(["nose", "LeftEye", "RightEye", "left_alone"]) == [("LeftEye", "RightEye")]
    assert connection_rules(["a", "b"], [[2, 1]])[0][:2] == ("b", "a")


@pytest.mark.parametrize("place", ["annotations", ".", "train"])
def test_images_are_found_near_the_json(tmp_path: Path, place: str) -> None:
    json_file = tmp_path / "annotations" / "train.json"
    for folder in (json_file.parent, tmp_path / place):
        folder.mkdir(exist_ok=True)
    (tmp_path / place / "a.jpg").write_bytes(b"")
    assert find_image_folder(json_file, "a.jpg") == tmp_path / place


def test_shapes_follow_the_cache_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path))
    register_shapes()
    try:
        assert Path(MetadataCatalog.get("shapes_val").json_file).is_relative_to(tmp_path)
    finally:
        monkeypatch.undo()
        register_shapes()
