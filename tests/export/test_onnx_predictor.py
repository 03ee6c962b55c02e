"""Exported files in use: predicted with, evaluated, in the demo, in 8 bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from detkit.export import ExportSettings, OnnxModel
from tests.export.files import needs, write
from tests.export.test_program import batch, detector
from tests.export.test_tools import tool

ROOT = Path(__file__).parents[2]


def test_predictor_reads_paths_arrays_and_lists_of_mixed_sizes(fcos_file, tmp_path):
    from detkit import OnnxPredictor

    predictor = OnnxPredictor(fcos_file, threads=1)
    pixels = batch(200, 300)[0][0].permute(1, 2, 0).numpy().astype(np.uint8)  # RGB
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    found = predictor(path)
    assert len(found) > 5 and set(found.names) <= {"cat", "dog", "bird"}
    assert found.image_size == (200, 300) and found.boxes[:, 2].max() <= 300 and found.boxes[:, 3].max() <= 200
    same = predictor([pixels[:, :, ::-1], Image.fromarray(pixels)])  # OpenCV's order, Pillow's order
    for other in same:
        assert_close(other.boxes, found.boxes, atol=1e-3, rtol=0)
    wide = Image.fromarray(np.hstack([pixels, pixels]))
    assert [each.image_size for each in predictor([path, wide])] == [(200, 300), (200, 600)]
    entry = found.to_coco(image_id=7)[0]
    x0, y0, x1, y1 = found.boxes[0].tolist()
    assert entry == {
        "image_id": 7,
        "category_id": int(found.classes[0]),
        "score": pytest.approx(float(found.scores[0])),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
    }
    assert np.any(np.asarray(found.draw(Image.fromarray(pixels), min_score=0.0)) != pixels)


def test_predictor_has_the_interface_of_the_one_in_pytorch(fcos_file, tmp_path):
    from detkit import OnnxPredictor

    predictor = OnnxPredictor(fcos_file, threads=1)
    pixels = batch(200, 300)[0][0].permute(1, 2, 0).numpy().astype(np.uint8)[:, :, ::-1]  # BGR
    found = predictor(pixels)
    assert_close(predictor([pixels, pixels[:150]], batch_size=2)[0].scores, predictor(pixels, batch_size=3).scores, atol=0.1, rtol=0)
    assert np.array_equal(np.asarray(found.draw(min_score=2.0)), pixels[:, :, ::-1])
    with pytest.raises(ValueError, match="of 300 x 200 pixels, this one has 300 x 100"):
        found.draw(pixels[:100])
    best = found[found.scores > found.scores[3]]
    assert 1 <= len(best) <= 3 and best.names == found.names[: len(best)] and len(found[1]) == 1
    assert found.to_coco(category_ids=[7, 8, 9])[0]["category_id"] == 7 + found.classes[0]
    gray = predictor(np.ascontiguousarray(pixels[:, :, 1]))
    assert_close(gray.boxes, predictor(np.repeat(pixels[:, :, 1:2], 3, axis=2)).boxes)


@pytest.mark.parametrize(
    "image, error, message",
    [
        (np.zeros((9, 9, 3), np.float32), ValueError, "an array of float32. It has to be of uint8"),
        (np.zeros((9, 9, 4), np.uint8), ValueError, r"the shape \(9, 9, 4\). It has to be \(H, W, 3\)"),
        (None, TypeError, "a path, an array or a PIL image, not a NoneType"),
        ("missing.jpg", ValueError, "The image missing.jpg cannot be read"),
        (Image.new("I;16", (9, 9)), ValueError, "more than 8 bits per channel"),
        ("drawing.jpg", ValueError, "The image drawing.jpg cannot be read: it is a drawing in EPS, which is not run here"),
    ],
)
def test_predictor_names_what_is_no_image(fcos_file, image, error, message, tmp_path, monkeypatch):
    from detkit import OnnxPredictor

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9)).save("drawing.jpg", format="EPS")  # Pillow looks at the content, not at the suffix
    with pytest.raises(error, match=message):
        OnnxPredictor(fcos_file, threads=1)(image)


def test_predicting_imports_no_torch(fcos_file, tmp_path):
    Image.new("RGB", (200, 150), "gray").save(tmp_path / "image.png")
    code = f"""
import sys
from detkit import OnnxPredictor
OnnxPredictor({str(fcos_file)!r})({str(tmp_path / "image.png")!r})
loaded = [name for name in ("torch", "torchvision", "detectron2") if name in sys.modules]
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_predictor_refuses_what_it_cannot_read(fcos_file, tmp_path):
    from detkit import OnnxPredictor

    with pytest.raises(FileNotFoundError, match="there is no file 'missing.onnx'"):
        OnnxPredictor("missing.onnx")
    needs("onnxruntime")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(fcos_file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="onnxruntime cannot read .*cut.onnx: "):
        OnnxPredictor(cut)


def test_files_of_one_size_see_images_as_in_testing_and_no_larger_than_they_take(fcos_file):
    from detkit import OnnxPredictor

    predictor = OnnxPredictor(fcos_file, threads=1)  # shorter side 160, longer side at most 320
    for size, expected in {(160, 192): (160, 192), (320, 480): (160, 240), (480, 320): (240, 160), (100, 400): (80, 320)}.items():
        assert predictor.resized(np.zeros((*size, 3), np.uint8)).shape[:2] == expected
    predictor.metadata["size"] = [160, 192]
    for size, expected in {(160, 192): (160, 192), (320, 480): (128, 192), (480, 320): (160, 107), (100, 400): (48, 192)}.items():
        assert predictor.resized(np.zeros((*size, 3), np.uint8)).shape[:2] == expected
    predictor.metadata["size"] = [1600, 1600]
    assert predictor.resized(np.zeros((320, 480, 3), np.uint8)).shape[:2] == (160, 240)


def test_a_fixed_batch_is_filled_with_the_last_image(fcos_file):
    from detkit import OnnxPredictor

    predictor = OnnxPredictor(fcos_file, threads=1)
    predictor.metadata["batch"] = 3
    images = [np.full((160, 192 + 9 * i, 3), i + 1, np.uint8) for i in range(2)]
    assert predictor.feed(images)["image_sizes"].tolist() == [[160, 192], [160, 201], [160, 201]]
    assert [found.image_size for found in predictor([*images, *images])] == [(160, 192), (160, 201)] * 2


def test_file_in_the_place_of_the_model(fcos_file):
    images, sizes = batch()
    inputs = [
        {"image": image[:, :h, :w].byte(), "height": 2 * h, "width": 2 * w} for image, (h, w) in zip(images, sizes.tolist(), strict=True)
    ]
    model, stand_in = detector("FCOS"), OnnxModel(fcos_file, threads=1)
    with torch.no_grad():
        expected, actual = model(inputs), stand_in(inputs)
    for wanted, found in zip(expected, actual, strict=True):
        assert found["instances"].image_size == wanted["instances"].image_size
        assert_close(found["instances"].scores, wanted["instances"].scores, atol=1e-5, rtol=0)
        assert_close(found["instances"].pred_boxes.tensor, wanted["instances"].pred_boxes.tensor, atol=0.01, rtol=0)


@pytest.mark.slow
def test_file_of_several_tasks_in_the_place_of_the_model(tmp_path):
    needs("onnx", "onnxscript", "onnxruntime")
    file = write("LSNet bbox+pose+segm", tmp_path / "several.onnx", ExportSettings(size=(160, 192), batch=2))
    images, sizes = batch()
    inputs = [{"image": image[:, :h, :w].byte(), "height": h, "width": w} for image, (h, w) in zip(images, sizes.tolist(), strict=True)]
    model, stand_in = detector("LSNet bbox+pose+segm"), OnnxModel(file, threads=1)
    assert stand_in.predictor.metadata["landmarks"] == ["bbox", "pose", "segm"]
    with torch.no_grad():
        expected, actual = model(inputs), stand_in(inputs)
    for wanted, found in zip(expected, actual, strict=True):
        wanted, found = wanted["instances"], found["instances"]
        assert set(wanted.get_fields()) == set(found.get_fields()) and len(wanted) == len(found) > 5
        for field in ("pred_extreme_points", "pred_polygons", "pred_keypoints"):
            assert_close(found.get(field), wanted.get(field), atol=0.01, rtol=0)


def test_demo_takes_the_file_in_the_place_of_weights(fcos_file):
    from detkit.demo.models import load_model

    pixels = batch(200, 300)[0][0].permute(1, 2, 0).numpy().astype(np.uint8)[:, :, ::-1]
    found = load_model(None, str(fcos_file))([pixels])[0]
    assert len(found) > 5 and set(found.names) <= {"cat", "dog", "bird"} and found.image_size == (200, 300)
    assert found.draw(min_score=0.0).size[0] >= 300


def test_convolutions_are_stored_in_8_bits(fcos_file, tmp_path, capsys):
    import onnx

    from detkit import OnnxPredictor

    photo, output = tmp_path / "image.png", tmp_path / "small.onnx"
    Image.fromarray(batch(200, 300)[0][0].permute(1, 2, 0).numpy().astype(np.uint8)).save(photo)
    tool("quantize_onnx").main([str(fcos_file), "--images", str(tmp_path), "--output", str(output)])
    assert "ranges of 1 images" in capsys.readouterr().out
    weights = [tensor for tensor in onnx.load(output).graph.initializer if len(tensor.dims) == 4]
    assert weights and all(tensor.data_type == onnx.TensorProto.INT8 for tensor in weights)
    kept = tmp_path / "kept.onnx"
    tool("quantize_onnx").main([str(fcos_file), "--images", str(photo), "--output", str(kept), "--keep", "head.*_pred", "head.cls_score"])
    of_kind = {tensor.name: tensor.data_type for tensor in onnx.load(kept).graph.initializer if len(tensor.dims) == 4}
    whole = {name for name, kind in of_kind.items() if kind == onnx.TensorProto.FLOAT}
    assert whole == {"model.head.box_pred.weight", "model.head.cls_score.weight"} and len(of_kind) == len(weights)
    expected, found = (OnnxPredictor(file, threads=1)(photo) for file in (fcos_file, output))
    assert found.class_names == expected.class_names
    assert abs(found.scores[0] - expected.scores[0]) < 0.05


def test_quantization_refuses_unknown_convolutions_and_to_overwrite_its_file(fcos_file, tmp_path):
    Image.new("RGB", (200, 160)).save(tmp_path / "image.png")
    content, quantize = fcos_file.read_bytes(), tool("quantize_onnx").main
    with pytest.raises(SystemExit, match="--keep no_such: .*fcos.onnx has no such convolution. Its last ones are .*head.box_pred"):
        quantize([str(fcos_file), "--images", str(tmp_path), "--output", str(tmp_path / "x.onnx"), "--keep", "no_such"])
    with pytest.raises(SystemExit, match="--output .*fcos.onnx is the file itself"):
        quantize([str(fcos_file), "--images", str(tmp_path), "--output", str(fcos_file)])
    assert fcos_file.read_bytes() == content and [path.name for path in tmp_path.iterdir()] == ["image.png"]


@pytest.mark.parametrize("images, message", [("missing", "there is no image or folder 'missing'"), (".", "there are no images in .")])
def test_quantization_needs_images(images, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        tool("quantize_onnx").main(["file.onnx", "--images", images])
