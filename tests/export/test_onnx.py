"""Files: written, checked, refused; and the predictor that needs no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from detkit.dense import DensePostprocessor
from detkit.export import DetectorProgram, ExportError, ExportSettings, OnnxModel, export_detector, formats, metadata_of
from detkit.export.check import Agreement, compare_outputs, verify
from detkit.layers import EXPORT_FORMS, nms_mask
from detkit.structures import Predictions
from lsnet.convolution import convolve_at
from lsnet.reading import SourceScale
from tests.export.test_program import CONFIGS, batch, detector
from tests.export.test_tools import tool

ROOT = Path(__file__).parents[2]


def needs(*packages: str) -> None:
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'detkit[export]'")


@pytest.fixture(scope="module")
def fcos_file(tmp_path_factory) -> Path:
    needs("onnx", "onnxscript", "onnxruntime")
    return write("FCOS", tmp_path_factory.mktemp("onnx") / "fcos.onnx")


def write(name: str, path: Path, settings: ExportSettings | None = None, **options) -> Path:
    model, settings = detector(name), settings or ExportSettings()
    cfg = CONFIGS[name]()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 160, 320
    metadata = metadata_of(cfg, model, settings, ["cat", "dog", "bird"], name)
    agreement = export_detector(model, path, settings=settings, metadata=metadata, **options)
    assert agreement.raw or agreement.detections > 30
    assert agreement.unmatched == 0 and agreement.box < 0.01
    return path


def test_file_of_any_size_gives_what_the_model_gives(fcos_file):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(fcos_file))
    program = DetectorProgram(detector("FCOS"))
    for size in ((131, 500), (320, 160)):
        images, sizes = batch(*size)
        with torch.no_grad():
            expected = dict(zip(("boxes", "scores", "classes", "counts"), program(images, sizes), strict=True))
        outputs = session.run(None, {"images": images.numpy(), "image_sizes": sizes.numpy()})
        assert [value.shape for value in outputs] == [(2, 100, 4), (2, 100), (2, 100), (2,)]
        actual = {name: torch.from_numpy(value) for name, value in zip(expected, outputs, strict=True)}
        agreement = Agreement()
        compare_outputs(actual, expected, agreement)
        assert agreement.detections > 20 and agreement.unmatched == 0
        assert agreement.box < 0.01 and agreement.score < 1e-5


@pytest.mark.parametrize("nms_thresh", [0.6, None])
def test_without_suppression_there_is_no_operator_for_it(nms_thresh, tmp_path):
    needs("onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    class PostProcessing(torch.nn.Module):
        def forward(self, logits, boxes, sizes):
            post = DensePostprocessor(nms_thresh=nms_thresh, max_detections=20)
            found = post(Predictions(logits, boxes), priors_per_level=[40], image_sizes=sizes)
            return found.boxes, found.scores, found.classes, found.counts

    generator = torch.Generator().manual_seed(0)
    corners = 9 * torch.rand(2, 40, 2, generator=generator)
    values = torch.randn(2, 40, 3, generator=generator), torch.cat([corners, corners + 30], -1), torch.full((2, 2), 64.0)
    program = torch.export.export(PostProcessing(), values)
    forms = {operator: form.onnx for operator, form in EXPORT_FORMS.items()}
    torch.onnx.export(program, dynamo=True, opset_version=20, custom_translation_table=forms, verbose=False).save(tmp_path / "x.onnx")
    assert ("NonMaxSuppression" in operators_of(tmp_path / "x.onnx")) == (nms_thresh is not None)
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"))
    feed = {node.name: value.numpy() for node, value in zip(session.get_inputs(), values, strict=True)}
    expected = PostProcessing()(*values)
    assert (expected[3] == 20).all() == (nms_thresh is None)  # the boxes overlap
    for ours, theirs in zip(session.run(None, feed), expected, strict=True):
        assert_close(torch.from_numpy(ours), theirs)


def operators_of(path: Path) -> set[str]:
    import onnx

    model = onnx.load(path)
    return {node.op_type for nodes in (model.graph.node, *(function.node for function in model.functions)) for node in nodes}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "FCOS"])
def test_every_detector(name, tmp_path):
    needs("onnx", "onnxscript", "onnxruntime")
    operators = operators_of(write(name, tmp_path / "x.onnx"))
    assert ("NonMaxSuppression" in operators) == (name not in ("FCOS, one-to-one", "Sparse R-CNN"))


@pytest.mark.parametrize("name", ["FCOS", *(pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS if name != "FCOS")])
def test_torch_export_of_every_detector(name, tmp_path):
    write(name, tmp_path / "x.pt2", file_format="torch_export")


@pytest.mark.parametrize("name", ["FCOS", "Sparse R-CNN", "LSNet segm"])
def test_torchscript_takes_the_size_of_its_trace_alone(name, tmp_path):
    settings = ExportSettings(size=(160, 192), batch=2)
    file = torch.jit.load(write(name, tmp_path / "x.ts", settings, file_format="torchscript"))
    assert len(file(*batch(160, 192))) == (5 if "LSNet" in name else 4)
    with pytest.raises(torch.jit.Error, match=r"takes images of the shape \[2, 3, 160, 192\], not \[2, 3, 192, 192\]"):
        file(*batch(192, 192))


def test_a_file_that_does_not_run_is_one_line():
    def run(images, sizes):
        raise AssertionError("Guard failed: images.size()[0] == 2\n  and more")

    program = DetectorProgram(detector("FCOS"), raw=True)
    program(*batch(160, 192))  # tells the names of its outputs
    with pytest.raises(ExportError, match=r"does not run on images of the shape 2x3x160x192: Guard failed: images.size\(\)\[0\] == 2$"):
        verify(program, run, [batch(160, 192)])


def test_raw_outputs_and_weights_in_half_precision(tmp_path):
    needs("onnx", "onnxscript", "onnxruntime")
    half = write("FCOS", tmp_path / "half.onnx", ExportSettings(size=(160, 192), batch=1, raw=True), half=True)
    import onnx

    tensors = onnx.load(half).graph.initializer
    elements = {kind: sum(np.prod(each.dims, dtype=int) for each in tensors if each.data_type == kind) for kind in (1, 10)}
    weights = sum(parameter.numel() for parameter in detector("FCOS").parameters())
    assert elements[onnx.TensorProto.FLOAT16] > 0.9 * weights and elements[onnx.TensorProto.FLOAT] < 0.1 * weights


def test_inverted_boxes_suppress_nothing(tmp_path):
    needs("onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    class Suppression(torch.nn.Module):
        def forward(self, boxes, scores, classes):
            return nms_mask(boxes, scores, classes, 0.1)

    generator = torch.Generator().manual_seed(0)
    boxes = 20 * torch.rand(2, 60, 4, generator=generator)
    assert int((boxes[..., :2] > boxes[..., 2:]).any(-1).sum()) > 60
    values = boxes, torch.rand(2, 60, generator=generator), torch.randint(2, (2, 60), generator=generator)
    program = torch.export.export(Suppression(), values)
    forms = {operator: form.onnx for operator, form in EXPORT_FORMS.items()}
    torch.onnx.export(program, dynamo=True, opset_version=20, custom_translation_table=forms, verbose=False).save(tmp_path / "x.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"))
    feed = {node.name: value.numpy() for node, value in zip(session.get_inputs(), values, strict=True)}
    expected = nms_mask(*values, 0.1)
    assert expected.sum() < 115
    assert_close(torch.from_numpy(session.run(None, feed)[0]), expected)


def test_convolution_at_landmarks_for_any_size(tmp_path):
    needs("onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    class Convolution(torch.nn.Module):
        def forward(self, x, offset, weight):
            return convolve_at(x, offset, weight, SourceScale((0.5, 0.5), (0.25, 0.5)))

    def inputs(height, width):
        generator = torch.Generator().manual_seed(height)
        x = torch.randn(2, 5, height, width, generator=generator)
        offset = 9 * torch.randn(2, 18, 2 * height, 2 * width - 1, generator=generator)  # some far outside
        offset[0, :, 0, 0] = 1e12
        return x, offset, torch.randn(4, 5, 3, 3, generator=generator)

    sides = dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC)
    with torch.no_grad():
        program = torch.export.export(Convolution(), inputs(9, 11), dynamic_shapes=(sides, sides, None), strict=False)
        forms = {operator: form.onnx for operator, form in EXPORT_FORMS.items()}
        torch.onnx.export(program, dynamo=True, opset_version=20, custom_translation_table=forms, verbose=False).save(tmp_path / "x.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"))
    for size in ((9, 11), (14, 6)):
        values = inputs(*size)
        feed = {node.name: value.numpy() for node, value in zip(session.get_inputs(), values, strict=True)}
        expected = Convolution()(*values)
        assert_close(torch.from_numpy(session.run(None, feed)[0]), expected, atol=2e-4, rtol=1e-4)
        plain = EXPORT_FORMS[torch.ops.lsnet.convolve.default].plain
        assert expected.abs().max() > 1
        for program_form in (program.module(), program.run_decompositions({torch.ops.lsnet.convolve.default: plain}).module()):
            assert_close(program_form(*values), expected, atol=2e-4, rtol=1e-4)


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
    ],
)
def test_predictor_names_what_is_no_image(fcos_file, image, error, message):
    from detkit import OnnxPredictor

    with pytest.raises(error, match=message):
        OnnxPredictor(fcos_file, threads=1)(image)


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
    expected, found = (OnnxPredictor(file, threads=1)(photo) for file in (fcos_file, output))
    assert found.class_names == expected.class_names
    assert abs(found.scores[0] - expected.scores[0]) < 0.05


@pytest.mark.parametrize("images, message", [("missing", "there is no image or folder 'missing'"), (".", "there are no images in .")])
def test_quantization_needs_images(images, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        tool("quantize_onnx").main(["file.onnx", "--images", images])


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


def test_a_file_that_gives_something_else_is_not_kept(tmp_path, monkeypatch):
    from detkit.export import export

    def wrong(path, file_format, names):
        return lambda images, sizes: {name: value + (name == "boxes") * 3.0 for name, value in run(images, sizes).items()}

    program = DetectorProgram(detector("FCOS"))

    def run(images, sizes):
        with torch.no_grad():
            return dict(zip(("boxes", "scores", "classes", "counts"), program(images, sizes), strict=True))

    monkeypatch.setattr(export, "open_exported", wrong)
    settings = ExportSettings(size=(160, 192), batch=1)
    with pytest.raises(ExportError, match="does not give what the model gives: 0 of [0-9]+ detections the same"):
        export_detector(detector("FCOS"), tmp_path / "x.ts", file_format="torchscript", settings=settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"settings": ExportSettings(batch=1), "file_format": "torchscript"}, "give --size HxW and --batch N"),
        ({"file_format": "tflite"}, "the format is 'tflite'; it has to be one of onnx, torch_export, torchscript"),
        ({"file_format": "torch_export", "half": True}, "half precision in ONNX files alone"),
    ],
)
def test_what_cannot_be_done_is_refused(options, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export_detector(detector("FCOS"), tmp_path / "x", **options)
    assert not list(tmp_path.iterdir())


def test_other_models_and_impossible_settings_are_refused(tmp_path):
    with pytest.raises(ExportError, match="Linear has no tensor path"):
        export_detector(torch.nn.Linear(1, 1), tmp_path / "x")
    with pytest.raises(ExportError, match="opset is 18"):
        ExportSettings(opset=18)
    with pytest.raises(ExportError, match="32 pixels a side"):
        ExportSettings(size=(16, 64))
    with pytest.raises(ExportError, match="batch is 0"):
        ExportSettings(batch=0)


def test_what_the_exporter_stumbles_on_is_named(tmp_path, monkeypatch):
    def stumble(*args, **kwargs):
        raise torch.onnx.OnnxExporterError("Failed to convert. Next steps:") from TypeError("no number")

    needs("onnx", "onnxscript", "onnxruntime")
    monkeypatch.setattr(formats, "export_program", lambda *_: None)  # which takes seconds
    monkeypatch.setattr(torch.onnx, "export", stumble)
    with pytest.raises(ExportError, match="torch.onnx cannot write FCOS: TypeError: no number"):
        export_detector(detector("FCOS"), tmp_path / "x.onnx", settings=ExportSettings(size=(160, 192), batch=1))
    assert not list(tmp_path.iterdir())


def test_predictor_refuses_what_it_cannot_read(tmp_path):
    from detkit import OnnxPredictor

    with pytest.raises(FileNotFoundError, match="there is no file 'missing.onnx'"):
        OnnxPredictor("missing.onnx")


def test_a_comparison_of_nothing_is_refused(tmp_path):
    model, settings = detector("FCOS"), ExportSettings(size=(160, 192), batch=1)
    model.postprocessor.score_thresh = 0.9999
    with pytest.raises(ExportError, match="no detection passes the score threshold"):
        export_detector(model, tmp_path / "x.ts", file_format="torchscript", settings=settings)
    assert not list(tmp_path.iterdir())


def test_counts_of_what_differs():
    expected = {"boxes": torch.tensor([[[0.0, 0, 9, 9], [20, 20, 40, 40]]]), "scores": torch.tensor([[0.9, 0.5]])}
    expected |= {"classes": torch.tensor([[0, 1]]), "counts": torch.tensor([2])}
    agreement = Agreement()
    other = expected | {"boxes": expected["boxes"].flip(1) + 0.25, "scores": expected["scores"].flip(1), "classes": torch.tensor([[1, 0]])}
    compare_outputs(other, expected, agreement)
    assert (agreement.detections, agreement.unmatched, agreement.box) == (2, 0, 0.25)
    compare_outputs(other | {"classes": torch.tensor([[1, 1]])}, expected, agreement)
    assert (agreement.detections, agreement.unmatched) == (4, 1)


@pytest.mark.parametrize(
    ("box", "score", "kind", "last", "ties"),
    [
        ([3.0, 0, 13, 10], 0.9, 0, 0.5, 1),  # a neighbor of the same score took its place
        ([3.0, 0, 13, 10], 0.8, 0, 0.5, 0),  # of another score
        ([3.0, 0, 13, 10], 0.9, 1, 0.5, 0),  # of another class
        ([9.0, 0, 19, 10], 0.9, 0, 0.5, 0),  # it does not suppress it
        ([80.0, 0, 90, 10], 0.9, 0, 0.9, 1),  # there are no more than two detections, and the second one has its score
    ],
)
def test_which_differences_are_ties(box, score, kind, last, ties):
    def outputs(box, score, kind):
        found = {"boxes": torch.tensor([[box, [20.0, 20, 40, 40]]]), "scores": torch.tensor([[score, last]])}
        return found | {"classes": torch.tensor([[kind, 1]]), "counts": torch.tensor([2])}

    agreement = Agreement()
    compare_outputs(outputs(box, score, kind), outputs([0.0, 0, 10, 10], 0.9, 0), agreement)
    assert (agreement.unmatched, agreement.ties) == (1, ties)
