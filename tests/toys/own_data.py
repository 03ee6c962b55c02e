"""Data of a user's own, as small as it can be, and what the command line makes of it."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from detkit.config import flatten, get_cfg
from detkit.engine import run
from tests.toys.detectors import tiny_cfg

SIZE = (48, 64)
CATEGORIES = [{"id": 1, "name": "ball"}, {"id": 2, "name": "cube"}]


def annotation(number: Any, image: Any, category: Any, box: list[float]) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}


def valid_content() -> dict[str, Any]:
    """Four images with two objects each but for the last, which has none."""
    images = [{"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in (1, 2, 3, 4)]
    boxes = [[4, 6, 20, 18], [30, 10, 24, 30]]
    annotations = [annotation(2 * i + k - 1, i, k + 1, boxes[k]) for i in (1, 2, 3) for k in (0, 1)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": copy.deepcopy(CATEGORIES)}


ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "toys" / "train_net.py"


@dataclass
class Outcome:
    """What a command line ended with.

    Attributes:
        message: the error, from "error" on; None where the command went through, "" where it failed without a word.
        console: all it showed, with that message.
        output: its OUTPUT_DIR.
        code: the exit status; minus the signal that ended the process.
    """

    message: str | None
    console: str
    output: Path
    code: int = 0

    @property
    def results(self) -> dict[str, Any]:
        return json.loads((self.output / "results.json").read_text())["results"]["custom_val"]

    @property
    def detections(self) -> list[dict[str, Any]]:
        return json.loads((self.output / "inference" / "custom_val" / "coco_instances_results.json").read_text())


class OwnData:
    """A folder with an annotation file and its images.

    Attributes:
        content: of the annotation file, which is written before every run unless ``raw`` is set.
        raw: the bytes of the file instead.
    """

    def __init__(self, root: Path, capture: pytest.CaptureFixture) -> None:
        self.root, self._capture = root, capture
        self.json_file = root / "own.json"
        self.content = valid_content()
        self.raw: bytes | None = None
        self.config_file = root / "config.yaml"
        self._runs = 0
        rng = np.random.default_rng(0)
        for image in self.content["images"]:
            Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(self.image(image["id"]))
        self.write_config(two_iterations("ATSS"))

    def image(self, number: int) -> Path:
        return self.root / f"{number}.png"

    def write_config(self, cfg: Any) -> None:
        """Only the keys that are not the default, since the whole config takes longer to parse than to train with."""
        defaults = dict(flatten(get_cfg()))
        self.config_file.write_text(yaml.safe_dump({key: _plain(value) for key, value in flatten(cfg) if value != defaults[key]}))

    def write(self) -> None:
        self.json_file.write_bytes(json.dumps(self.content).encode() if self.raw is None else self.raw)

    def words(self, *words: str, flags: tuple[str, ...] = (), output: Path | None = None) -> tuple[list[str], Path]:
        """Writes the annotation file; returns the words of a command line on it and its output folder, by default the next new one."""
        self.write()
        if output is None:
            self._runs += 1
            output = self.root / f"out{self._runs}"
        files = ["DATASETS.TRAIN_JSON", str(self.json_file), "DATASETS.VAL_JSON", str(self.json_file), "OUTPUT_DIR", str(output)]
        return ["--config-file", str(self.config_file), *flags, *files, *words], output

    def run(self, *words: str, flags: tuple[str, ...] = (), output: Path | None = None) -> Outcome:
        """Trains two iterations and evaluates in this process, or does what overrides and flags ask for.

        Raises:
            anything but SystemExit: the message has not reached the console.
        """
        command, output = self.words(*words, flags=flags, output=output)
        self._capture.readouterr()
        ended: int | str | None = None
        try:
            run(command)
        except SystemExit as stopped:
            ended = stopped.code
        shown = self._capture.readouterr()
        if isinstance(ended, str):  # what Python prints as it ends, with status 1
            return Outcome(ended, f"{shown.out}{shown.err}{ended}\n", output, 1)
        return Outcome(_error(shown.err) if ended else None, shown.out + shown.err, output, ended or 0)

    def start(
        self, *words: str, flags: tuple[str, ...] = (), output: Path | None = None, launcher: tuple[str, ...] = (), **environment: str
    ) -> Started:
        """Starts the same in a process of its own, in the folder of the data."""
        command, output = self.words(*words, flags=flags, output=output)
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        process = subprocess.Popen(
            [sys.executable, *launcher, str(SCRIPT), *command],
            cwd=self.root,
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Started(process, output)


@dataclass
class Started:
    """A command line that runs in a process of its own."""

    process: subprocess.Popen[str]
    output: Path

    def end(self, timeout: float = 120) -> Outcome:
        """Waits for its end.

        Raises:
            AssertionError: it hangs; says what it has shown.
        """
        try:
            console, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            console, _ = self.process.communicate()
            raise AssertionError(f"It still ran after {timeout} s, and had shown:\n{console}") from None
        code = self.process.returncode
        return Outcome(_error(console) if code else None, console, self.output, code)


def _error(shown: str) -> str:
    """The error that a process shows, from its first line to the end of the output."""
    lines = shown.splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith("error")), None)
    return "" if first is None else "\n".join(lines[first:])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def two_iterations(method: str = "ATSS") -> Any:
    """A tiny detector that trains two iterations of two images."""
    cfg = tiny_cfg(method)
    node = cfg.MODEL[method.upper()]
    node.NUM_CLASSES = 80  # the default, so that it is inferred
    node.TEST.SCORE_THRESH = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (48,), 48
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 2, 2, ()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.CHECKPOINT_PERIOD = 0.001, 0, 0
    cfg.SEED = 1
    return cfg
