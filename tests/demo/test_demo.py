"""The demo's command line on pictures and a generated clip."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detkit import demo
from detkit.demo import CocoFile, DemoError, Frame, pipeline, sinks, sources
from detkit.engine import Trainer
from detkit.export import ExportSettings, export_detector, metadata_of, to_instances
from detkit.onnx_predictor import OnnxDetections
from tests.predictor.test_result import found
from tests.toys.detectors import tiny_cfg


@pytest.fixture(scope="module")
def run_folder(trained: Path) -> str:
    return str(trained / "out")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two pictures, and one below them of the same name as the first."""
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.png", "more/a.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Twelve frames of 96 x 64 pixels, 12 a second, in which a bright square moves to the right."""
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12, (96, 64))
    for number in range(12):
        frame = np.full((64, 96, 3), 40, np.uint8)
        frame[20:40, 5 * number : 5 * number + 20] = (60, 220, 240)
        writer.write(frame)
    writer.release()
    return path


def test_pictures_of_a_folder(run_folder: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    demo.run(
        ["--config-file", run_folder, "--input", str(photos), "--output", str(out), str(out / "d.json"), "--confidence-threshold", "0"]
    )
    assert "3 of 3 images" in capsys.readouterr().out
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == ["a.jpg", "b.png", "d.json", "more/a.jpg"]
    plain, drawn = (np.asarray(Image.open(folder / "b.png"), int) for folder in (photos, out))
    assert drawn.shape == plain.shape and np.abs(drawn - plain).mean() > 1
    content = json.loads((out / "d.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "b.png", "more/a.jpg"]
    assert [category["name"] for category in content["categories"]] == ["ball", "cube"]
    assert {entry["image_id"] for entry in content["annotations"]} == {1, 2, 3}
    assert {entry["category_id"] for entry in content["annotations"]} <= {category["id"] for category in content["categories"]}


def test_a_clip(run_folder: str, clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "drawn.avi"
    demo.run(
        ["--config-file", run_folder, "--video-input", str(clip), "--output", str(target), str(tmp_path / "d.json"), "--batch-size", "5"]
        + ["--confidence-threshold", "0.0"]
    )
    video = cv2.VideoCapture(str(target))
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)) == (12, 12)
    frames = list(sources.Video(target))
    assert frames[0].pixels.shape == (64, 96, 3) and len(frames) == 12
    images = json.loads((tmp_path / "d.json").read_text())["images"]
    assert [(image["file_name"], image["frame"]) for image in images] == [("clip.mp4", number) for number in range(12)]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
def test_the_threshold_filters_results(threshold: float, tmp_path: Path) -> None:
    sink = CocoFile(tmp_path / "d.json")
    assert pipeline.detect_all([Frame(np.zeros((40, 60, 3), np.uint8), "a")], lambda images: [found()], [sink], min_score=threshold) == 1
    scores = [entry["score"] for entry in json.loads((tmp_path / "d.json").read_text())["annotations"]]
    assert scores == pytest.approx([score for score in (0.9, 0.2) if score >= threshold])


def test_landmarks_of_an_exported_file() -> None:
    """They take the form that the model's have."""
    square = np.array([[[10, 5], [30, 5], [30, 25], [10, 25]]], np.float32)
    fields = (np.array([[10, 5, 30, 25]], np.float32), np.array([0.9], np.float32), np.array([1]), ["cat", "dog"])
    masks = to_instances(OnnxDetections((40, 60), *fields, {"segm": square})).pred_masks
    assert masks.shape == (1, 40, 60) and masks.sum() == 400 and masks[0, 5:25, 10:30].all()
    points = to_instances(OnnxDetections((40, 60), *fields, {"pose": square})).pred_keypoints
    assert points.shape == (1, 4, 3) and points[0, 2].tolist() == pytest.approx([30, 25, 0.9])
    plain = {"pred_boxes", "scores", "pred_classes"}
    assert set(to_instances(OnnxDetections((40, 60), *fields)).get_fields()) == plain
    several = OnnxDetections((40, 60), *fields, {"bbox": square, "pose": square, "segm": square})
    own = {"pred_extreme_points", "pred_keypoints", "pred_polygons", "pred_masks"}
    assert set(to_instances(several).get_fields()) == plain | own
    (entry,) = several[several.scores > 0.5].to_coco(7)
    assert len(entry["keypoints"]) == 12 and entry["segmentation"] == [square.ravel().tolist()]
    assert (np.asarray(several.draw(np.zeros((40, 60, 3), np.uint8))) > 0).any()


@pytest.mark.slow
def test_an_exported_file(photos: Path, tmp_path: Path) -> None:
    """Its detections are those of the model."""
    pytest.importorskip("onnxscript")
    cfg = tiny_cfg("FCOS")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", 192, "MODEL.FCOS.TEST.SCORE_THRESH", 0.0])
    model = Trainer.build_model(cfg).eval()
    settings = ExportSettings()
    metadata = metadata_of(cfg, model, settings, [f"class {number}" for number in range(cfg.MODEL.FCOS.NUM_CLASSES)], "model")
    export_detector(model, tmp_path / "model.onnx", file_format="onnx", settings=settings, metadata=metadata, half=False, photos=[])
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    words = ["--input", str(photos), "--confidence-threshold", "0", "--output"]
    demo.run(["--weights", str(tmp_path / "model.onnx"), *words, str(tmp_path / "onnx.json")])
    demo.run(
        ["--config-file", str(tmp_path / "config.yaml"), "--weights", str(tmp_path / "weights.pth"), *words, str(tmp_path / "model.json")]
    )
    found, expected = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("onnx", "model"))
    assert len(found["images"]) == 3 and len(found["annotations"]) == len(expected["annotations"]) > 100
    scores = ([sorted(each["score"] for each in content["annotations"])] for content in (found, expected))
    np.testing.assert_allclose(*scores, atol=1e-3)


def test_words_that_mean_pictures(photos: Path) -> None:
    names = [
        path.relative_to(photos).as_posix()
        for path in demo.find_pictures([str(photos / "**" / "*.jpg"), str(photos / "b.png"), str(photos)])
    ]
    assert names == ["a.jpg", "more/a.jpg", "b.png"]


def test_pictures_that_cannot_be_read(run_folder: str, photos: Path, tmp_path: Path) -> None:
    (photos / "aa.jpg").write_bytes(b"nothing")
    with pytest.raises(SystemExit, match=r"error: 1 could not be read:\nThe image .*aa\.jpg cannot be read"):
        demo.run(["--config-file", run_folder, "--input", str(photos), "--output", str(tmp_path / "out")])
    assert len(list((tmp_path / "out").rglob("*.*"))) == 3


@pytest.mark.parametrize(
    "words, message",
    [
        (["--input", "nowhere/*.jpg", "--output", "out"], r"--input 'nowhere/\*\.jpg' is no file, and as a pattern it means none"),
        (["--input", "{photos}", "--output", "out.mp4"], "pictures make no video"),
        (["--input", "{photos}", "--output", "out.jpg"], "3 pictures need a folder"),
        (["--input", "{photos}", "--output", "{photos}"], "would overwrite what is read"),
        (["--input", "{photos}/a.jpg", "--output", "out.txt"], "a picture ends in .jpg or .png"),
        (["--video-input", "{photos}/a.txt", "--output", "out"], r"there is no file .*a\.txt"),
        (["--video-input", "{broken}", "--output", "out"], "is no video that OpenCV can read"),
        (["--video-input", "{clip}", "--output", "{clip}"], "would overwrite what is read"),
        (["--video-input", "{clip}", "--output", "out.webm"], r"a video ends in \.mp4"),
        (["--webcam", "61", "--output", "out"], "this machine has no camera 61"),
        (["--input", "{photos}", "--output", "out", "--confidence-threshold", "50"], "It has to be from 0 to 1"),
        (["--input", "{photos}", "--output", "out", "--batch-size", "0"], "It has to be 1 or more"),
        (["--input", "{photos}", "--output", "out"], "name a model"),
        (["--input", "{photos}", "--output", "out", "--weights", "nowhere.onnx"], r"there is no file 'nowhere\.onnx'"),
        (["--input", "{photos}", "--output", "out", "--config-file", "fcos"], "There is no model 'fcos'"),
    ],
)
def test_bad_words_end_in_one_line(
    photos: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as stopped:
        demo.run([word.format(photos=photos, clip=clip, broken=broken) for word in words])
    assert "\n" not in str(stopped.value)


def test_without_a_window_an_output_is_asked_for(photos: Path, run_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_window(*_: Any) -> None:
        raise cv2.error("no display")

    monkeypatch.setattr(sinks.cv2, "namedWindow", no_window)
    with pytest.raises(SystemExit, match=r"There is no window .* Name an --output"):
        demo.run(["--config-file", run_folder, "--input", str(photos)])


class Shown:
    """A stand-in for OpenCV's windows, in which Esc is pressed at the third picture."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(sinks.cv2, "namedWindow", lambda *_: None)
        monkeypatch.setattr(sinks.cv2, "destroyWindow", lambda *_: None)
        monkeypatch.setattr(sinks.cv2, "imshow", self.show)
        monkeypatch.setattr(sinks.cv2, "waitKey", lambda delay: 27 if self.count == 3 else -1)

    def show(self, title: str, picture: np.ndarray) -> None:
        assert picture.shape == (40, 60, 3)
        self.count += 1


def test_a_camera_in_a_window_until_esc(monkeypatch: pytest.MonkeyPatch) -> None:
    class Capture:
        def __init__(self, number: int) -> None:
            self.released = False

        def isOpened(self) -> bool:  # noqa: N802  as OpenCV calls it
            return True

        def get(self, key: int) -> float:
            return 0.0

        def read(self) -> tuple[bool, np.ndarray]:
            return True, np.zeros((40, 60, 3), np.uint8)

        def release(self) -> None:
            self.released = True

    monkeypatch.setattr(sources.cv2, "VideoCapture", Capture)
    camera, shown = sources.Camera(0), Shown(monkeypatch)
    pipeline.detect_all(camera, lambda images: [found() for _ in images], [demo.Window()], min_score=0.5)
    assert shown.count == 3 and camera.fps == 30 and camera._capture.released


def frames(count: int | None = None) -> Iterator[Frame]:
    for number in itertools.count() if count is None else range(count):
        yield Frame(np.zeros((40, 60, 3), np.uint8), "v", number)


def test_what_was_found_before_an_error_is_kept(tmp_path: Path) -> None:
    def predict(images: Any) -> list[Any]:
        if len(calls) == 4:
            raise RuntimeError("out of memory")
        calls.append(1)
        return [found()]

    calls: list[int] = []
    with pytest.raises(RuntimeError, match="out of memory"):
        pipeline.detect_all(frames(), predict, [CocoFile(tmp_path / "d.json")], min_score=0)
    assert len(json.loads((tmp_path / "d.json").read_text())["images"]) == 4


def test_an_error_of_a_writer_ends_the_run(tmp_path: Path) -> None:
    class Full(CocoFile):
        def write(self, *_: Any) -> None:
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        pipeline.detect_all(frames(), lambda images: [found()], [Full(tmp_path / "d.json")], min_score=0)


def test_an_error_of_a_source_is_raised(tmp_path: Path) -> None:
    def broken() -> Iterator[Frame]:
        yield from frames(2)
        raise DemoError("the stick was pulled out")

    with pytest.raises(DemoError, match="pulled out"):
        pipeline.detect_all(broken(), lambda images: [found()], [CocoFile(tmp_path / "d.json")], min_score=0)
    assert len(json.loads((tmp_path / "d.json").read_text())["images"]) == 2
