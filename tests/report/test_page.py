from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from detkit.config import SafeCfgNode
from detkit.evaluation import CocoEvaluation, EvaluationError, read_ground_truth
from detkit.report import ReportError, write_report
from detkit.visualization import PictureError

from .conftest import DATASET, detections_of

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags are balanced, and gathers addresses, alternative texts and ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]
        self.ids += [v for k, v in attrs if k == "id" and v]
        if tag in ("img", "svg"):
            self.images.append(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def text_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    Page(text)
    return text


def test_page_of_a_finished_run(cfg: SafeCfgNode, run_folder: Path, dataset: Path) -> None:
    path = write_report(cfg, run_folder)
    assert path == run_folder / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert all(address.startswith(("#", "data:image/jpeg;base64,")) for address in page.addresses)
    assert all(image.get("alt") or image.get("aria-label") for image in page.images)
    # losses, AP, learning rate, two precision-recall curves; pairs: 4 with objects in the grid, 2 best, 2 worst, 4 of the assigner
    assert len(page.images) == 3 + 2 + 2 * (4 + 2 + 2 + 4)
    assert len(page.ids) == len(set(page.ids))
    assert path.stat().st_size < 1e6
    table = CocoEvaluation(read_ground_truth(dataset), detections_of(dataset)).average_precision.table()
    assert f"<dt>box AP</dt><dd>{table['AP']:.1f}</dd>" in text
    assert "<dt>iterations</dt><dd>100 / 100</dd>" in text
    assert "$ball &amp; $chain" in text
    assert "$ball & $chain" not in text
    assert "ATSSAssigner" in text
    assert "MODEL.ATSS.NUM_CLASSES" in text
    assert 'class="missing"' not in text


def test_reasons_stand_beside_the_pictures(cfg: SafeCfgNode, run_folder: Path) -> None:
    text = text_of(write_report(cfg, run_folder))
    worst = text[text.index("Worst images") : text.index("Best images")]
    assert worst.index("1.png") < worst.index("3.png")
    assert "Quality 0.00 · 0 of 2 found · missed: $ball &amp; $chain (medium), cube (medium)" in worst
    assert "2 of 2 found · mean IoU 0.82 · false: $ball &amp; $chain (background)" in worst
    assert "Quality 1.00 · 2 of 2 found · mean IoU 1.00" in text[text.index("Best images") :]


def test_empty_run_says_what_is_missing(cfg: SafeCfgNode) -> None:
    text = text_of(write_report(cfg, cfg.OUTPUT_DIR))
    assert text.count('class="missing"') == 3
    assert "Nothing is logged" in text
    assert f"No detections on {DATASET} yet" in text
    assert "has no run.json" in text
    assert "ATSSAssigner" in text


def test_data_sets_that_are_not_there(cfg: SafeCfgNode, run_folder: Path) -> None:
    (run_folder / "inference" / DATASET).rename(run_folder / "inference" / "elsewhere")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("elsewhere",)
    text = text_of(write_report(cfg, run_folder))
    assert "elsewhere is not on this machine" in text
    assert "DATASETS.TRAIN names no dataset" in text


@pytest.mark.parametrize("empty", ["annotations", "images"])
def test_data_without_objects_or_images(cfg: SafeCfgNode, run_folder: Path, dataset: Path, empty: str) -> None:
    content = json.loads(dataset.read_text())
    dataset.write_text(json.dumps(content | {"annotations": [], empty: []}))
    (run_folder / "inference" / DATASET / "coco_instances_results.json").write_text("[]")
    text = text_of(write_report(cfg, run_folder))
    assert "holds no objects" in text
    assert "has no image with objects" in text


def test_no_detections_at_all(cfg: SafeCfgNode, run_folder: Path) -> None:
    (run_folder / "inference" / DATASET / "coco_instances_results.json").write_text("[]")
    text = text_of(write_report(cfg, run_folder))
    assert "<dt>box AP</dt><dd>0.0</dd>" in text
    assert "0 of 2 found" in text


def test_model_without_a_grid(cfg: SafeCfgNode, run_folder: Path) -> None:
    assert "Linear has no grid of priors" in text_of(write_report(cfg, run_folder, torch.nn.Linear(1, 1)))


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("metrics.json", '{"iteration": 1}\n{"itera\n{"iteration": 3}\n', EvaluationError),
        ("run.json", "[]", ReportError),
        ("run.json", '{"starts": [1]}', ReportError),
        (f"inference/{DATASET}/coco_instances_results.json", "[{", EvaluationError),
    ],
)
def test_broken_files_are_named(cfg: SafeCfgNode, run_folder: Path, name: str, content: str, error: type[Exception]) -> None:
    (run_folder / name).write_text(content)
    with pytest.raises(error, match=Path(name).name):
        write_report(cfg, run_folder)
    assert not (run_folder / "report.html").exists()


def test_missing_image_is_named(cfg: SafeCfgNode, run_folder: Path, dataset: Path) -> None:
    (dataset.parent / "2.png").write_bytes(b"")
    with pytest.raises(PictureError, match=r"2\.png: the image cannot be read"):
        write_report(cfg, run_folder)


def test_missing_folder_is_named(cfg: SafeCfgNode) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        write_report(cfg, "nowhere")
