"""The page of a run on CrowdHuman shows that benchmark's scores, not COCO's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from detkit.config import SafeCfgNode
from detkit.data import register_crowdhuman
from detkit.evaluation import EvaluationError, inference_folder
from detkit.evaluation.crowdhuman import CrowdHumanEvaluator
from detkit.report import ReportError, write_report
from tests.toys.detectors import tiny_cfg

from .test_page import text_of

NAME = "report_crowd"
SCORES = {"AP": 89.24, "mMR": 48.31, "Recall": 95.92, "JI": 83.13}
LATER = {"AP": 90.61, "mMR": 41.72, "Recall": 96.43, "JI": 84.94}


@pytest.fixture
def cfg(tmp_path: Path) -> Iterator[SafeCfgNode]:
    """A run on two images whose persons were not found."""
    lines = []
    for name in ("a,1", "b,2"):
        Image.new("RGB", (64, 48), (80, 90, 100)).save(tmp_path / f"{name}.jpg")
        boxes = [("person", [10, 5, 20, 30]), ("mask", [40, 0, 20, 20])]
        lines.append(json.dumps({"ID": name, "gtboxes": [{"tag": tag, "fbox": box, "extra": {}} for tag, box in boxes]}))
    (tmp_path / "crowd.odgt").write_text("\n".join(lines))
    register_crowdhuman(NAME, tmp_path / "crowd.odgt", tmp_path)
    cfg = tiny_cfg("ATSS")
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (NAME,)
    cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR = 100, str(tmp_path / "run")
    CrowdHumanEvaluator(NAME, output_dir=inference_folder(cfg, NAME)).evaluate()
    yield cfg
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def save_results(cfg: SafeCfgNode, scores: dict[str, Any], iteration: int | None = None) -> None:
    content = {"results": {NAME: {"bbox": scores}}, "iteration": iteration}
    (Path(cfg.OUTPUT_DIR) / "results.json").write_text(json.dumps(content))


def log_scores(cfg: SafeCfgNode, scores: dict[str, float], iteration: int, prefix: str = "bbox") -> None:
    with (Path(cfg.OUTPUT_DIR) / "metrics.json").open("a") as file:
        file.write(json.dumps({"iteration": iteration} | {f"{prefix}/{name}": value for name, value in scores.items()}) + "\n")


def tiles(text: str) -> dict[str, str]:
    """Name and value of the numbers at the head of the page."""
    parts = text[text.index('<dl class="tiles">') : text.index("</dl>")].split("<dt>")[1:]
    return {part.split("</dt>")[0]: part.split("<dd>")[1].split("</dd>")[0] for part in parts}


def cells(text: str) -> tuple[list[str], list[str]]:
    """Columns and values of the table of scores."""
    table = text[text.index("<caption>") : text.index("</table>")]
    return (
        [part.split("<")[0] for part in table.split('<th scope="col">')[1:]],
        [part.split("<")[0] for part in table.split("<td>")[1:] if part[0].isdigit()],
    )


def test_headline_and_table_are_the_stored_scores(cfg: SafeCfgNode) -> None:
    save_results(cfg, SCORES, iteration=100)
    log_scores(cfg, LATER, 50)
    log_scores(cfg, SCORES, 100)  # the evaluation after training, whose results are stored
    text = text_of(write_report(cfg, cfg.OUTPUT_DIR))
    assert list(tiles(text).items())[:4] == [("box AP", "89.2"), ("mMR, lower is better", "48.3"), ("Recall", "95.9"), ("JI", "83.1")]
    assert cells(text) == (["AP", "mMR", "Recall", "JI"], ["89.2", "48.3", "95.9", "83.1"])
    assert "CrowdHuman&#39;s, not COCO&#39;s" in text and "stored them in results.json" in text
    assert "AP50" not in text and "AP75" not in text and "Precision and recall" not in text and "<h3>Classes" not in text
    assert "Average precision over the iterations" in text  # of the AP that the headline shows
    assert "0 of 1 found" in text


@pytest.mark.parametrize("prefix", ["bbox", f"{NAME}/bbox"])
def test_a_run_that_has_not_ended_shows_its_last_evaluation(cfg: SafeCfgNode, prefix: str) -> None:
    if prefix != "bbox":
        cfg.DATASETS.TEST = (NAME, "elsewhere")  # then names tell the dataset
    log_scores(cfg, SCORES, 40, prefix)
    log_scores(cfg, LATER, 80, prefix)
    text = text_of(write_report(cfg, cfg.OUTPUT_DIR))
    assert cells(text)[1] == ["90.6", "41.7", "96.4", "84.9"] and "stored them in metrics.json" in text


@pytest.mark.parametrize(("iteration", "shown"), [(100, "90.6"), (None, "89.2")])
def test_results_from_before_the_run_went_on_are_outdated(cfg: SafeCfgNode, iteration: int | None, shown: str) -> None:
    save_results(cfg, SCORES, iteration)  # without an iteration: of an evaluation alone
    log_scores(cfg, LATER, 150)
    assert tiles(text_of(write_report(cfg, cfg.OUTPUT_DIR)))["box AP"] == shown


@pytest.mark.parametrize("stored", [None, {"AP": 50.0, "AP50": 60.0}])
def test_scores_that_are_not_stored_are_said_to_be_missing(cfg: SafeCfgNode, stored: dict[str, float] | None) -> None:
    if stored:
        save_results(cfg, stored)
    text = text_of(write_report(cfg, cfg.OUTPUT_DIR))
    assert f"No scores on {NAME} are stored" in text and "--eval-only" in text and "box AP" not in tiles(text)


@pytest.mark.parametrize("content", ["{", "[]", '{"results": 1}'])
def test_broken_results_are_named(cfg: SafeCfgNode, content: str) -> None:
    (Path(cfg.OUTPUT_DIR) / "results.json").write_text(content)
    with pytest.raises((ReportError, EvaluationError), match=r"results\.json: .*Evaluate (the run )?again"):
        write_report(cfg, cfg.OUTPUT_DIR)


def test_a_crowd_that_is_elsewhere_leaves_the_rest(cfg: SafeCfgNode, tmp_path: Path) -> None:
    save_results(cfg, SCORES)
    log_scores(cfg, SCORES, 100)
    (tmp_path / "crowd.odgt").unlink()
    text = text_of(write_report(cfg, cfg.OUTPUT_DIR))
    assert text.count("crowd.odgt does not exist") == 2  # detections, assigner
    assert "Average precision over the iterations" in text
