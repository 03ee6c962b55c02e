"""Nothing in a training step reads a value of the device, which would wait for all that is launched. Proven without a device: tensors on a
fake one have shapes alone, so that reading a value, or a shape that depends on values, is an error.

The backward pass is not run there, since autograd asks for a GPU's context; test_launches.py runs it on another device without values."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from detkit.assigners import ASSIGNER_REGISTRY, ota, soft
from detkit.engine import TrainingStep, build_gradient_clipper, build_optimizer, prepare_for_training, reports
from detkit.engine.ema import WeightAverage
from detkit.engine.whole_state import WholeState
from detkit.host import on_host, send
from detkit.structures import Detections
from tests.toys.detectors import random_inputs, tiny_cfg, tiny_sparse_cfg
from tests.toys.devices import fake_gpu, matched_by_hand, on_fake_gpu

ASSIGNERS = sorted(name for name, _ in ASSIGNER_REGISTRY)
HARD = [name for name in ASSIGNERS if not ASSIGNER_REGISTRY.get(name).gives_weights]

#: heads and losses beside the default ones: method, and keys of its section with their values
VARIANTS = {
    "nine anchors": ("ATSS", "ASSIGNER", "IoUAssigner", "ANCHORS.SCALES", [4.0, 5.04, 6.35], "ANCHORS.RATIOS", [0.5, 1.0, 2.0]),
    "TOOD": ("DW", "HEAD.NAME", "TOODHead", "HEAD.QUALITY", "none", "BOX_CODER.NAME", "linear"),
    "refined": ("DW", "HEAD.NAME", "RefiningHead"),
    "quality of IoU": ("FCOS", "LOSS.QUALITY", "iou"),
    "quality of the boxes": ("FCOS", "TEST.QUALITY_FROM", "box"),
    "smooth L1": ("ATSS", "LOSS.BOX", "smooth_l1"),
    "deltas for points": ("FCOS", "BOX_CODER.NAME", "delta", "LOSS.NORMALIZER", "all"),
    "max filtering": ("FCOS", "HEAD.NAME", "MaxFilteringHead", "HEAD.QUALITY", "box", "LOSS.CRITERION", "weighted"),
    "auxiliary": ("FCOS", "ASSIGNER", "OneNetAssigner", "AUXILIARY.ASSIGNER", "QualityATSSAssigner", "AUXILIARY.BOX_WEIGHT", 0.5),
    "auxiliary weights": ("ATSS", "AUXILIARY.ASSIGNER", "DWAssigner", "TEST.NMS_THRESH", None),
    "moving average": ("FCOS", "LOSS.NORMALIZER", "ema", "LOSS.BOX_WEIGHTING", "uniform"),
}
#: what LSNet learns, by name: keys of its section, and how many landmarks an object has
LANDMARKS = {
    "LSNet bbox": ({}, 4),
    "LSNet segm": ({"TASKS": ["segm"]}, 36),
    "LSNet pose": ({"TASKS": ["pose"]}, 17),
    "LSNet bbox, pose, segm": ({"TASKS": ["bbox", "pose", "segm"]}, 57),
    "LSNet corners": ({"CPV.ENABLED": True}, 4),
}


def inputs_of(name):
    """Two images with the landmarks that the detector of this name learns."""
    inputs = random_inputs()
    for item in inputs:
        item["instances"].gt_landmarks = torch.ones(3, LANDMARKS.get(name, ({}, 1))[1], 3)
    return inputs


def cfg_of(name):
    if name == "SparseRCNN":
        return tiny_sparse_cfg()
    if name in LANDMARKS:
        cfg = tiny_cfg("LSNet")
        cfg.merge_from_list([part for key, value in LANDMARKS[name][0].items() for part in (f"MODEL.LSNET.{key}", value)])
        return cfg
    method, _, assigner = name.partition(" ")
    cfg = tiny_cfg(method)
    if assigner:
        cfg.MODEL[method].ASSIGNER = assigner
    cfg.MODEL.ASSIGNERS.FOVEABOX.SIZES = [32, 64, 128]
    return cfg


def variant(name):
    method, *changes = VARIANTS[name]
    cfg = cfg_of(method)
    cfg.merge_from_list([f"MODEL.{method}.{part}" if place % 2 == 0 else part for place, part in enumerate(changes)])
    return cfg


def read_in_training(cfg, monkeypatch, inputs=None):
    """Shapes of what a training step reads, which gives a loss of each kind."""
    read = matched_by_hand(monkeypatch)
    losses = on_fake_gpu(cfg, inputs or random_inputs(), train=True)
    assert losses and all(loss.device.type == "cuda" and loss.shape == () for loss in losses.values())
    return read


@pytest.mark.parametrize("ignore_padding", [False, True])
@pytest.mark.parametrize("name", ["FCOS", "ATSS", "ATSS IoUAssigner", "DW", *LANDMARKS])
def test_a_training_step_reads_nothing(name, ignore_padding, monkeypatch):
    cfg = cfg_of(name)
    cfg.MODEL[name.split()[0].upper()].IGNORE_PADDING = ignore_padding
    assert read_in_training(cfg, monkeypatch, inputs_of(name)) == []


#: what those read, once, that match on the host: costs of all predictions, qualities of the three best locations of each of six objects
MATCHED = {"HungarianAssigner": [(2, 252, 3)], "POTOAssigner": [(18,)]}


@pytest.mark.parametrize("name", ASSIGNERS)
def test_every_assigner_reads_nothing(name, monkeypatch):
    cfg = cfg_of(f"DW {name}")
    cfg.MODEL.DW.IGNORE_PADDING = True
    assert read_in_training(cfg, monkeypatch) == MATCHED.get(name, [])


def test_greedy_matching_of_poto_reads_nothing(monkeypatch):
    cfg = cfg_of("FCOS POTOAssigner")
    cfg.MODEL.ASSIGNERS.POTO.MATCHING = "greedy"
    assert read_in_training(cfg, monkeypatch) == []


@pytest.mark.parametrize("name", HARD)
def test_hard_labels_with_weights_read_nothing(name, monkeypatch):
    cfg = cfg_of(f"FCOS {name}")
    cfg.MODEL.FCOS.LOSS.CRITERION = "weighted"
    assert read_in_training(cfg, monkeypatch) == MATCHED.get(name, [])


@pytest.mark.parametrize("name", VARIANTS)
def test_heads_and_losses_read_nothing(name, monkeypatch):
    assert read_in_training(variant(name), monkeypatch) == []


def test_sparse_rcnn_reads_the_costs_of_all_stages_at_once_and_nothing_else(monkeypatch):
    read = matched_by_hand(monkeypatch)
    losses = on_fake_gpu(cfg_of("SparseRCNN"), random_inputs(), train=True)
    assert read == [(2 * 2, 12, 3)] and len(losses) == 6


def test_one_to_many_matching_and_denoising_read_nothing_more(monkeypatch):
    read = matched_by_hand(monkeypatch)
    cfg = tiny_sparse_cfg("MATCHES_PER_OBJECT", [4], "DENOISING.COPIES", 2)
    losses = on_fake_gpu(cfg, random_inputs(), train=True)
    assert read == [(2 * 2, 12, 4 * 3)] and len(losses) == 8


def test_the_whole_of_an_iteration_reads_what_the_one_before_has_found_and_nothing_else(monkeypatch):
    """Losses, gradients, clipping, optimizer and average; only the backward pass is left out, for it needs a driver: the launches that
    are counted beside this file are those of one that reads nothing."""
    events = []

    class Copy:
        """As long as nobody reads it, it waits for nothing."""

        def __init__(self, tensor):
            assert tensor.device.type == "cuda"
            self.number = tensor.numel()
            events.append("sent")

        def read(self):
            events.append("read")
            return [0.5] * self.number

    monkeypatch.setattr(reports, "HostCopy", Copy)
    cfg = cfg_of("FCOS")
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "AdamW", True, "full_model"
    model, data = prepare_for_training(cfg, build_model(cfg).train()), random_inputs()
    with fake_gpu(model, data):
        monkeypatch.setattr(torch.Tensor, "backward", lambda loss: [setattr(p, "grad", torch.empty_like(p)) for p in model.parameters()])
        step = TrainingStep(model=model, optimizer=build_optimizer(cfg, model), clip=build_gradient_clipper(cfg))
        average, whole = WeightAverage(model, 0.9), WholeState(model)
        for iteration in range(3):
            report = step(iter([data]), iteration=iteration, before_update=whole.changing)
            average.update(model)
            whole.completed(iteration)
            assert (report and report.iteration) == (iteration - 1 if iteration else None)
    assert events == ["sent", "sent"] + 2 * ["sent", "read", "read", "sent"]


def test_a_value_that_is_read_would_be_noticed(monkeypatch):
    from detkit.assigners import FCOSAssigner

    forward = FCOSAssigner.forward
    for read in (lambda gt: int(gt.valid.sum()), lambda gt: gt.classes[gt.valid]):
        monkeypatch.setattr(FCOSAssigner, "forward", lambda self, context, read=read: (read(context.gt), forward(self, context))[1])
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            on_fake_gpu(cfg_of("FCOS"), random_inputs(), train=True)


def test_a_copy_that_is_waited_for_would_be_noticed(monkeypatch):
    from detkit.assigners import FCOSAssigner

    forward = FCOSAssigner.forward
    for copied in (lambda gt: torch.tensor([1.0, 2.0], device=gt.boxes.device), lambda gt: torch.ones(2).to(gt.boxes.device)):
        monkeypatch.setattr(FCOSAssigner, "forward", lambda self, context, copied=copied: (copied(context.gt), forward(self, context))[1])
        with pytest.raises(AssertionError, match=r"\(2,\) numbers of torch.float32 are copied to the GPU, and waited for"):
            on_fake_gpu(cfg_of("FCOS"), random_inputs(), train=True)


@pytest.mark.parametrize("name", ["FCOS", "LSNet bbox", "SparseRCNN"])
def test_inference_mode_remembers_nothing_and_detects(name):
    with torch.inference_mode():
        assert not hasattr(send(torch.arange(3.0).numpy(), "meta"), "host_copy")
        model = build_model(cfg_of(name)).eval()
        assert len(model(inputs_of(name))) == 2


def test_what_was_sent_is_known_on_the_host_until_it_changes():
    tensor = send(torch.arange(3.0).numpy(), "meta")
    assert on_host(tensor).tolist() == [0, 1, 2]
    tensor += 1
    with pytest.raises(NotImplementedError):  # values of a tensor without data are gone
        on_host(tensor)
    here = send(torch.arange(3.0).numpy(), "cpu")
    here += 1
    assert on_host(here).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "name",
    [
        *("FCOS", "ATSS", "DW", *LANDMARKS, "SparseRCNN", "nine anchors", "TOOD", "refined", "quality of the boxes"),
        *("max filtering", "auxiliary weights"),
    ],
)
def test_inference_reads_the_numbers_of_detections_at_the_end_and_nothing_else(name, monkeypatch):
    read, to_instances = [], Detections.to_instances

    def read_once(found, sizes):
        read.append(found)
        return to_instances(replace(found, counts=SimpleNamespace(tolist=lambda: [3, 0])), sizes)

    monkeypatch.setattr(Detections, "to_instances", read_once)
    assert len(on_fake_gpu(variant(name) if name in VARIANTS else cfg_of(name), random_inputs(), train=False)) == 2
    (found,) = read
    assert found.boxes.device.type == found.counts.device.type == "cuda"


def test_all_images_are_resized_as_detectron2_resizes_one():
    torch.manual_seed(0)
    corner = 130 * torch.rand(2, 30, 2) - 10
    boxes = torch.cat([corner, corner + 40 * torch.rand(2, 30, 2) - 2], dim=-1)
    found = Detections(boxes, torch.rand(2, 30), torch.randint(0, 5, (2, 30)), torch.tensor([30, 17]), {"mark": torch.rand(2, 30, 3)})
    inputs, outputs = [(100, 120), (90, 70)], [(33, 77), (200, 150)]
    actual = found.resized(inputs, outputs).to_instances(outputs)
    kept = copy.deepcopy(found)  # Detectron2 resizes in place
    for ours, given, size in zip(actual, kept.to_instances(inputs), outputs, strict=True):
        theirs = detector_postprocess(given, *size)
        assert 0 < len(ours) == len(theirs) < len(given) and ours.image_size == theirs.image_size
        assert ours.pred_boxes.tensor.equal(theirs.pred_boxes.tensor)
        for name in ("scores", "pred_classes", "mark"):
            assert ours.get(name).equal(theirs.get(name))
    large = found.resized(inputs, outputs, min_area=50.0)
    expected = [boxes[boxes.area() > 50].tensor for boxes in (x.pred_boxes for x in actual)]
    assert [x.pred_boxes.tensor.tolist() for x in large.to_instances(outputs)] == [x.tolist() for x in expected]


@pytest.mark.parametrize("name", ["FCOS ATSSAssigner", "DW GFLAssigner", "DW VFLAssigner", "DW OTAAssigner"])
def test_not_knowing_how_many_are_positive_changes_no_loss(name, monkeypatch):
    cfg = cfg_of(name)
    cfg.MODEL[name.split()[0]].LOSS.CRITERION = "weighted" if "ATSS" in name else "auto"
    torch.manual_seed(0)
    model, inputs, results = build_model(cfg).train(), random_inputs(), []
    for known in (True, False):
        monkeypatch.setattr(soft, "values_are_at_hand", lambda tensor, known=known: known)
        monkeypatch.setattr(ota, "values_are_at_hand", lambda tensor, known=known: known)
        model.zero_grad()
        losses = model(inputs)
        sum(losses.values()).backward()
        results.append([*losses.values(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for here, there in zip(*results, strict=True):
        torch.testing.assert_close(here, there)
