"""Files: written, checked, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detkit.dense import DensePostprocessor
from detkit.export import DetectorProgram, ExportError, ExportSettings, export_detector, formats
from detkit.export.check import Agreement, compare_outputs, example_inputs, verify
from detkit.layers import EXPORT_FORMS, nms_mask
from detkit.structures import Predictions
from lsnet.convolution import convolve_at
from lsnet.reading import SourceScale
from tests.export.files import needs, write
from tests.export.test_program import CONFIGS, batch, detector


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


def test_a_comparison_of_nothing_is_refused(tmp_path):
    model, settings = detector("FCOS"), ExportSettings(size=(160, 192), batch=1)
    model.postprocessor.score_thresh = 0.9999
    with pytest.raises(ExportError, match="no detection passes the score threshold"):
        export_detector(model, tmp_path / "x.ts", file_format="torchscript", settings=settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [None, (32, 40)])
def test_images_to_compare_on_have_a_size_in_batches_of_any_number(size):
    for images, sizes in example_inputs(ExportSettings(size=size, batch=16)):
        assert (sizes >= 24).all() and (sizes <= torch.tensor(images.shape[2:])).all() and len(sizes.unique(dim=0)) == 4


def test_a_file_of_another_opset_than_asked_for_is_refused(tmp_path):
    needs("onnx", "onnxscript", "onnxruntime")
    with pytest.raises(ExportError, match="opset is 99, but torch .* can write no such file; it wrote 18"):
        export_detector(detector("FCOS"), tmp_path / "x.onnx", settings=ExportSettings(size=(160, 192), batch=1, opset=99))
    assert not list(tmp_path.iterdir())


def test_places_that_are_no_file_of_the_format_are_refused(tmp_path):
    with pytest.raises(ExportError, match="is a folder: name a file in it"):
        export_detector(detector("FCOS"), tmp_path)
    with pytest.raises(ExportError, match=r"ends as a file of another format than torch_export, whose files end in .pt2"):
        export_detector(detector("FCOS"), tmp_path / "x.onnx", file_format="torch_export")


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
