"""``tools/verify_zoo.py``: weights from a server, evaluated on real COCO images and compared with the reported AP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.toys.fixtures import DATA

from .serving import served, small_weights

ROOT = Path(__file__).parents[2]
#: starts the tool with a table of three rows: right as reported, wrong, and one whose file is not there
START = """
import sys
from dataclasses import replace
from types import MappingProxyType
from detkit import model_zoo
from detkit.model_zoo import table
from tests.model_zoo.serving import ROW
address, folder = sys.argv[1:3]
known = {name: replace(ROW, name=name, address=f"{address}/{file}", ap=ap, **more) for name, file, ap, more in (
    ("right", "a.pth", 0.0, {}), ("wrong", "b.pth", 30.0, {}), ("gone", "c.pth", 1.0, {}), ("other", "a.pth", 9.0, {"split": "test-dev"}))}
known = MappingProxyType({**table.entries(), **known})
table.entries = lambda: known
import importlib.util
import detkit.checkpoint.belonging as belonging
belonging.entries = table.entries
spec = importlib.util.spec_from_file_location("verify_zoo", "tools/verify_zoo.py")
tool = importlib.util.module_from_spec(spec)
sys.modules["verify_zoo"] = tool
spec.loader.exec_module(tool)
tool.main(sys.argv[3:])
"""


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of COCO val2017 with their annotations."""
    source = DATA / "coco"
    if not source.is_dir():
        pytest.skip(f"there is no real data in {DATA}; set DETKIT_DATA")
    folder = tmp_path_factory.mktemp("datasets")
    (folder / "coco" / "annotations").mkdir(parents=True)
    (folder / "coco" / "val2017").symlink_to(source / "val2017")
    content = json.loads((source / "annotations" / "instances_val2017.json").read_text())
    content["images"] = content["images"][:2]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]
    (folder / "coco" / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return folder


def run(tmp_path: Path, *words: str, address: str = "http://127.0.0.1:9") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"FVCORE_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT), "DETKIT_DOWNLOAD_ATTEMPTS": "1"}
    if words[0] == "--datasets":  # detkit is imported before the tool here
        environment["DETECTRON2_DATASETS"] = words[1]
    command = [sys.executable, "-c", START, address, str(tmp_path), *words, "--output", str(tmp_path / "out")]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
def test_rows_are_measured_one_by_one(coco: Path, tmp_path: Path) -> None:
    files = tmp_path / "server"
    files.mkdir()
    for name, shift in (("a.pth", 0.0), ("b.pth", 1e-3)):
        weights = small_weights()
        weights["head.cls_score.bias"][:] = shift  # every location is an object
        torch.save({"model": weights}, files / name)
    small = ("INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0", "DATASETS.TEST", "('coco_2017_val',)", "MODEL.DEVICE", "cpu")
    words = ("--datasets", str(coco), "--names", "right", "wrong", "gone", "other", "--remove", "--opts", *small)
    with served(files) as address:
        done = run(tmp_path, *words, address=address)
    assert done.returncode == 1 and "error: 2 of 4 rows differ from their source or could not be measured" in done.stderr, done.stderr
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {name: row["ap"] is not None for name, row in rows.items()} == {"right": True, "wrong": True, "gone": False, "other": True}
    table = (tmp_path / "out" / "verify_zoo.md").read_text()
    verdicts = [line.split("|")[4].strip().partition(":")[0] for line in table.splitlines()[2:]]
    assert verdicts == ["ok", "differs", "failed", "not comparable"]
    assert "torch " in table and table.count("c.pth") >= 1
    assert not list((tmp_path / "cache").rglob("*.pth"))  # --remove
    again = run(tmp_path, *words[:4])  # from what is kept; the server is gone
    assert again.returncode == 0 and "| `right` |" in again.stdout, again.stderr


@pytest.mark.slow
def test_bad_input_is_one_error(tmp_path: Path) -> None:
    for words, message in (
        (("--names", "nothing"), "error: The model zoo has no weights 'nothing'"),
        (("--datasets", str(tmp_path)), f"error: there is no {tmp_path}/coco/annotations/instances_val2017.json"),
    ):
        done = run(tmp_path, *words)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
