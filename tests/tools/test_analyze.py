"""The command line of the analyses, on a dataset of two images."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from tests.toys.detectors import tiny_cfg, tiny_sparse_cfg

_SPEC = importlib.util.spec_from_file_location("analyze", Path(__file__).parents[2] / "tools" / "analyze.py")
assert _SPEC and _SPEC.loader
analyze = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(analyze)


@pytest.fixture
def dataset(tmp_path):
    images, annotations = [], []
    for number in (1, 2):
        Image.fromarray(np.full((96, 128, 3), 60 * number, dtype=np.uint8)).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 96, "width": 128})
        box = [20, 20, 40, 50]
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": box, "area": 2000, "iscrowd": 0})
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}))
    yield str(path)
    if str(path) in DatasetCatalog.list():
        DatasetCatalog.remove(str(path))
        MetadataCatalog.remove(str(path))


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    cfg = tiny_cfg("ATSS")
    path.write_text(cfg.dump())
    return str(path)


def run(tmp_path, *argv):
    analyze.main([argv[0], "--output-dir", str(tmp_path / "out"), *argv[1:]])
    file = tmp_path / "out" / f"{argv[0]}.json"
    return json.loads(file.read_text()) if file.is_file() else None


def test_detections_from_ambiguous_locations(tmp_path, dataset, config):
    rows = run(tmp_path, "ambiguous", "--dataset", dataset, "--config-files", config, "--opts", "MODEL.ATSS.TEST.SCORE_THRESH", "0.001")
    assert rows["tiny"]["detections"] > 0 and rows["tiny"]["ambiguous %"] == 0  # one object in each image


def test_recall_of_the_papers_settings_and_of_a_config(tmp_path, dataset, config, capsys):
    rows = run(tmp_path, "recall", "--dataset", dataset, "--min-size", "96", "--max-size", "128")
    assert set(rows) == set(analyze.PAPER) and rows["FCOS"]["objects"] == 2 and rows["FCOS"]["recall %"] == 100
    header = next(line for line in capsys.readouterr().out.splitlines() if "recall" in line)
    assert "recall %" in header and header.count("(paper)") == 3
    assert [rows["FCOS"][f"{name} % (paper)"] for name in ("recall", "ambiguous", "across classes")] == [98.4, 7.14, 3.75]
    rows = run(tmp_path, "recall", "--dataset", dataset, "--min-size", "96", "--max-size", "128", "--config-files", config)
    assert set(rows) == {"tiny"}


def test_no_two_columns_look_alike(tmp_path, dataset):
    rows = run(tmp_path, "recall", "--dataset", dataset, "--min-size", "96", "--max-size", "128")
    names = [name.strip() for name in rows["FCOS"]]
    assert names == list(rows["FCOS"]) and len(set(names)) == len(names)


def test_every_sub_command_has_help_of_its_own(capsys):
    for name in ("recall", "positives", "assigners", "weightings", "precision", "scores", "convergence", "contours", "landmarks"):
        with pytest.raises(SystemExit, match="^0$"):
            analyze.parse([name, "--help"])
        text = capsys.readouterr().out
        assert " ".join(getattr(analyze, name).__doc__.split()) in " ".join(text.split())
        assert ("--dataset" in text) == (name != "convergence")


def test_positives(tmp_path, dataset):
    rows = run(tmp_path, "positives", "--dataset", dataset, "--min-size", "96", "--max-size", "128")
    assert rows["ATSS, all"]["objects"] == 2 and (tmp_path / "out" / "positives.png").is_file()


def test_assigners_side_by_side(tmp_path, dataset, config):
    run(tmp_path, "assigners", "--dataset", dataset, "--image", "2", "--config-files", config, "--opts", "INPUT.MIN_SIZE_TEST", "96")
    assert (tmp_path / "out" / "assigners.png").is_file()


def test_weightings_side_by_side(tmp_path, dataset, config):
    argv = ["weightings", "--dataset", dataset, "--image", "2", "--config-files", config, "--assigners", "DWAssigner", "VFLAssigner"]
    rows = run(tmp_path, *argv, "--opts", "INPUT.MIN_SIZE_TEST", "96")
    assert rows["s 0.5, IoU 0.4"]["P_neg, code"] == 1
    for name in ("weight_maps", "negative_probability"):
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 5000
    with pytest.raises(SystemExit, match="1 objects: there is no number 3"):
        run(tmp_path, *argv, "--object", "3")
    with pytest.raises(SystemExit, match=r"no checkpoint 'mistyped.pth'"):
        run(tmp_path, *argv, "--opts", "MODEL.WEIGHTS", "mistyped.pth")


def test_detections_files(tmp_path, dataset):
    file = tmp_path / "detections.json"
    file.write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": [20, 20, 40, 50], "score": 0.9}]))
    assert run(tmp_path, "precision", "--dataset", dataset, f"mine={file}")["mine"]["AP50"] == pytest.approx(100 * 51 / 101)
    assert run(tmp_path, "scores", "--dataset", dataset, str(file))[tmp_path.name]["detections"] == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["recall", "--dataset", "nowhere"], "neither a registered dataset nor a COCO json"),
        (["assigners", "--dataset", "{data}", "--image", "9", "--config-files", "x.yaml"], "no image of this id"),
        (["assigners", "--dataset", "{data}", "--image", "1"], "--config-files"),
        (["ambiguous", "--dataset", "{data}"], "--config-files"),
        (["recall", "--dataset", "{data}", "--opts", "MODEL.FCOS.NUM_CLASSES", "2"], "--opts: name the configs"),
        (["weightings", "--dataset", "{data}", "--image", "2", "--config-files", "{sparse}"], "which gives weights, and this model learns"),
        (
            ["ambiguous", "--dataset", "{data}", "--config-files", "{sparse}", "--opts", "MODEL.WEIGHTS", "detkit://none"],
            "SparseRCNN has no grid",
        ),
        (["precision", "--dataset", "{data}", "missing.json"], "no such file"),
    ],
)
def test_bad_input_is_named(tmp_path, dataset, argv, message):
    files = {name: tmp_path / f"{name}.yaml" for name in ("sparse", "lsnet")}
    files["sparse"].write_text(tiny_sparse_cfg().dump())
    files["lsnet"].write_text(tiny_cfg("LSNet").dump())
    with pytest.raises(SystemExit, match=message):
        run(tmp_path, *(part.format(data=dataset, **files) for part in argv))


def test_weights_by_an_address_are_loaded_where_they_are_asked_for(tmp_path, dataset, config, capsys):
    argv = ["ambiguous", "--dataset", dataset, "--config-files", config]
    with pytest.raises(SystemExit, match="no_such_name"):
        run(tmp_path, *argv, "--opts", "MODEL.WEIGHTS", "detkit://no_such_name")
    cfg = tiny_cfg("ATSS")
    cfg.MODEL.WEIGHTS = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"  # where a training starts
    Path(config).write_text(cfg.dump())
    assert "tiny" in run(tmp_path, *argv)
    assert "tiny: no weights are named" in capsys.readouterr().err


def test_configs_of_one_name_are_told_apart(tmp_path, dataset, config):
    other = tmp_path / "other" / "tiny.yaml"
    other.parent.mkdir()
    other.write_text(Path(config).read_text())
    rows = run(tmp_path, "recall", "--dataset", dataset, "--min-size", "96", "--max-size", "128", "--config-files", config, str(other))
    assert set(rows) == {f"{tmp_path.name}/tiny", "other/tiny"}


def test_contours(tmp_path, dataset):
    with pytest.raises(SystemExit, match=r"2 objects have no mask \(annotation 1 is the first\)"):
        run(tmp_path, "contours", "--dataset", dataset)
    content = json.loads(Path(dataset).read_text())
    for annotation in content["annotations"]:
        annotation["segmentation"] = [[20, 20, 20, 70, 60, 70, 60, 20]]
    Path(dataset).write_text(json.dumps(content))
    rows = run(tmp_path, "contours", "--dataset", dataset, "--landmarks", "18", "36")
    assert set(rows) == {"18 landmarks", "36 landmarks"}
    assert rows["36 landmarks"]["every part (paper)"] == 97.4 and rows["36 landmarks"]["every part"] == pytest.approx(100)


def test_landmarks_of_objects(tmp_path, dataset):
    path = tmp_path / "lsnet.yaml"
    path.write_text("MODEL:\n  META_ARCHITECTURE: LSNet\n")
    run(tmp_path, "landmarks", "--dataset", dataset, "--image", "2", "--config-file", str(path), "--opts", "MODEL.WEIGHTS", "")
    assert (tmp_path / "out" / "landmarks.png").stat().st_size > 5000
    with pytest.raises(SystemExit, match="has no image of this id"):
        run(tmp_path, "landmarks", "--dataset", dataset, "--image", "9", "--config-file", str(path))
