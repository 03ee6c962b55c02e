"""The whole detector, small: losses, detections, odd batches, errors."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from detectron2.utils.analysis import FlopCountAnalysis
from detectron2.utils.events import EventStorage
from torch import nn

from detkit.assigners import HungarianAssigner, NonFiniteCostError
from detkit.export import DetectorProgram
from detkit.geometry import DeltaBoxCoder
from detkit.layers import PyramidPooler
from detkit.structures import GroundTruth
from sparsercnn import SparseRCNN
from sparsercnn.criterion import FocalClassLoss, SetCriterion
from sparsercnn.head import IterativeHead
from sparsercnn.interaction import DynamicInteraction
from sparsercnn.postprocess import SetPostprocessor
from sparsercnn.proposals import LearnedProposals, image_boxes
from sparsercnn.stage import FeedForward, SelfAttention, Stage
from tests.toys.detectors import TinyPyramid, build_tiny, random_inputs, tiny_sparse_cfg


def losses_of(model: SparseRCNN, inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return model.train()(inputs)


def without_objects(item: dict[str, Any]) -> dict[str, Any]:
    empty = Instances(item["instances"].image_size)
    empty.gt_boxes, empty.gt_classes = Boxes(torch.zeros(0, 4)), torch.zeros(0, dtype=torch.int64)
    return item | {"instances": empty}


def test_losses_of_every_stage_reach_every_weight() -> None:
    model = build_tiny("NUM_STAGES", 3)
    losses = losses_of(model, random_inputs())
    assert set(losses) == {f"loss_{term}{suffix}" for term in ("cls", "l1", "giou") for suffix in ("", "_stage0", "_stage1")}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_only_the_first_stage_moves_the_proposal_boxes() -> None:
    model = build_tiny()
    losses = losses_of(model, random_inputs())
    (later,) = torch.autograd.grad(losses["loss_l1"] + losses["loss_giou"], model.proposals.boxes, retain_graph=True)
    (first,) = torch.autograd.grad(losses["loss_l1_stage0"], model.proposals.boxes)
    assert first.any() and not later.any()


def test_detections() -> None:
    model = build_tiny("TEST.DETECTIONS_PER_IMAGE", 7).eval()
    inputs = random_inputs(size=(96, 128))
    inputs[0] |= {"height": 48, "width": 64}
    with torch.no_grad():
        results = [item["instances"] for item in model(inputs)]
    assert [result.image_size for result in results] == [(48, 64), (96, 128)]
    for result in results:
        assert 0 < len(result) <= 7 and (result.scores.diff() <= 0).all() and (result.pred_classes < 3).all()
        assert (result.pred_boxes.tensor >= 0).all()


def test_proposals_cover_each_image_without_its_padding() -> None:
    model = build_tiny()
    large, small = random_inputs(1, size=(96, 128))[0], random_inputs(1, size=(64, 96))[0]
    images = model.preprocess_image([large, small])
    boxes, features = model.proposals(torch.tensor(images.image_sizes).float())
    assert boxes[1, 0].tolist() == [0, 0, 96, 64] and boxes[0, 5].tolist() == [0, 0, 128, 96]
    torch.testing.assert_close(features[0], features[1])


def test_an_earlier_stage_may_give_the_detections() -> None:
    torch.manual_seed(0)
    last, first = build_tiny(), build_tiny("TEST.STAGE", 0)
    first.load_state_dict(last.state_dict())
    inputs = random_inputs(1)
    with torch.no_grad():
        found = first.eval()(inputs)[0]["instances"]
        outputs = last.eval().predict(last.preprocess_image(inputs))
        (expected,) = last.postprocessor(outputs.logits[0], outputs.boxes[0]).to_instances([(96, 128)])
        assert not torch.equal(found.scores, last(inputs)[0]["instances"].scores)
    torch.testing.assert_close(found.scores, detector_postprocess(expected, 96, 128).scores)
    with pytest.raises(ValueError, match=r"TEST\.STAGE is 5\. It has to be in"):
        build_tiny("TEST.STAGE", 5)


def test_images_and_batches_without_objects() -> None:
    model = build_tiny()
    full, other = random_inputs()
    some = losses_of(model, [full, without_objects(other)])
    none = losses_of(model, [without_objects(full), without_objects(other)])
    assert all(loss.isfinite() for loss in (*some.values(), *none.values()))
    assert none["loss_l1"] == none["loss_giou"] == 0 and none["loss_cls"] > 0 and some["loss_l1"] > 0
    sum(none.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_more_objects_than_proposals() -> None:
    """Each proposal has one object, the others go without; losses are divided by the number of objects."""
    model = build_tiny("NUM_PROPOSALS", 100)
    (item,) = random_inputs(1, size=(256, 256), num_boxes=1000)
    outputs = model.predict(model.preprocess_image([item]))
    gt = item["instances"]
    assert all(loss.isfinite() for loss in losses_of(model, [item]).values())
    with torch.no_grad():
        assignments = model.assign(outputs, GroundTruth.from_instances([gt]))
    for gt_index in assignments[:, 0]:
        assert (gt_index >= 0).all() and len(gt_index.unique()) == 100


def test_values_that_are_not_finite_name_iteration_and_images() -> None:
    model = build_tiny()
    inputs = [item | {"image_id": i, "file_name": f"{i}.jpg"} for i, item in enumerate(random_inputs(3))]
    inputs[1]["image"] = inputs[1]["image"].float() * float("nan")
    with (
        EventStorage(start_iter=12),
        pytest.raises(NonFiniteCostError, match=r"at iteration 12 for the images 1 \(1\.jpg; stage0, stage1\)"),
    ):
        losses_of(model, inputs)


@pytest.mark.parametrize("num_classes", [1, 4, 64, 80, 256, 1203])
def test_the_prior_touches_the_bias_of_the_classes_alone(num_classes: int) -> None:
    """With 32 channels, 32 and 64 hidden ones: the official rule, by the last dimension, would fill other layers too."""
    torch.manual_seed(0)
    model = build_tiny("NUM_CLASSES", num_classes, "HEAD.FFN_CHANNELS", 64, "HEAD.DYNAMIC_CHANNELS", 4)
    prior = -np.log(0.99 / 0.01)
    filled = {name for name, p in model.named_parameters() if p.numel() > 1 and torch.allclose(p, torch.full_like(p, prior))}
    if num_classes == 1:
        filled |= {name for name, p in model.named_parameters() if p.numel() == 1 and abs(p.item() - prior) < 1e-4}
    assert filled == {f"head.stages.{i}.cls_score.bias" for i in range(2)}
    for name, module in model.head.named_modules():
        if isinstance(module, nn.Linear):
            bound = (6 / sum(module.weight.shape)) ** 0.5
            assert 0.5 * bound < module.weight.abs().max() <= bound, f"{name} does not start with Xavier's weights"


def test_the_first_boxes_may_be_the_proposals() -> None:
    model = build_tiny("HEAD.BOX_PRED_GAIN", 0.0).eval()
    assert not any(stage.box_pred.weight.any() for stage in model.head.stages)


def test_mixed_precision() -> None:
    torch.manual_seed(0)
    model, inputs = build_tiny(), random_inputs()
    expected = losses_of(model, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model.predict(model.preprocess_image(inputs))
        losses = losses_of(model, inputs)
    assert outputs.logits.dtype == torch.bfloat16 and outputs.boxes.dtype == torch.float32
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    torch.testing.assert_close(losses["loss_cls_stage0"], expected["loss_cls_stage0"], rtol=0.1, atol=0.05)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_without_a_config() -> None:
    channels = 32
    stage = Stage(
        channels=channels,
        num_logits=3,
        interaction=DynamicInteraction(channels=channels, dynamic_channels=8, bins=9),
        attention=SelfAttention(channels=channels, num_heads=4),
        ffn=FeedForward(channels=channels, hidden_channels=32),
    )
    pooler = PyramidPooler(3, [1 / 8, 1 / 16, 1 / 32], 2, "ROIAlignV2")
    model = SparseRCNN(
        backbone=TinyPyramid(),
        in_features=["p3", "p4", "p5"],
        proposals=LearnedProposals(initial_boxes=image_boxes(10), channels=channels),
        head=IterativeHead(stages=[stage, copy.deepcopy(stage)], pooler=pooler, box_coder=DeltaBoxCoder((2.0, 2.0, 1.0, 1.0))),
        assigner=HungarianAssigner(),
        criterion=SetCriterion(num_classes=3, class_loss=FocalClassLoss()),
        postprocessor=SetPostprocessor(max_detections=10),
        pixel_mean=[128.0] * 3,
        pixel_std=[64.0] * 3,
    )
    assert len(losses_of(model, random_inputs())) == 6
    assert len(model.eval()(random_inputs(1))[0]["instances"]) <= 10


def test_softmax_variant() -> None:
    model = build_tiny("HEAD.CLASSIFIER", "softmax", "MODEL.ASSIGNERS.HUNGARIAN.CLASS_COST", "softmax")
    assert model.head.stages[0].cls_score.out_features == 4
    assert all(loss.isfinite() for loss in losses_of(model, random_inputs()).values())
    found = model.eval()(random_inputs(1))[0]["instances"]
    assert found.pred_classes.max() < 3


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("HEAD.CLASSIFIER", "softmax", r"ASSIGNERS\.HUNGARIAN\.CLASS_COST is 'focal'\. It has to be one of 'softmax'"),
        (
            "PROPOSAL_INIT",
            "corner",
            r"SPARSE_RCNN\.PROPOSAL_INIT is 'corner'\. It has to be one of 'center', 'grid', 'image', 'random', 'scales'",
        ),
        ("HEAD.INTERACTION", "static", "SPARSE_RCNN.HEAD.SELF_ATTENTION is True. It has to be False with HEAD.INTERACTION 'static'"),
        ("HEAD.INTERACTION", "magic", r"HEAD\.INTERACTION is 'magic'\. It has to be one of 'attention', 'concat', 'dynamic', 'static'"),
        ("IN_FEATURES", ["p2", "p3"], r"IN_FEATURES is \['p2', 'p3'\]"),
        ("IN_FEATURES", [], r"IN_FEATURES is \[\]. It has to be one or more levels"),
        ("IN_FEATURES", ["p4", "p3"], "IN_FEATURES is .* from fine to coarse"),
        ("IN_FEATURES", ["p3", "p5"], "IN_FEATURES is .*p5.*half as fine"),
        ("NUM_STAGES", 0, r"MODEL\.SPARSE_RCNN\.NUM_STAGES is 0\. It has to be in \[1, 100000\]"),
        (
            "ASSIGNER",
            "ATSSAssigner",
            "SPARSE_RCNN.ASSIGNER is 'ATSSAssigner', which labels the cells of a grid.*It has to be one of 'HungarianAssigner'",
        ),
        ("ASSIGNER", "DWAssigner", "SPARSE_RCNN.ASSIGNER is 'DWAssigner', which gives weights"),
        ("HEAD.PRIOR_PROB", 0.0, r"PRIOR_PROB is 0.0\. It has to be in \(0, 1\)"),
        ("POOLER.RESOLUTION", 0, "POOLER.RESOLUTION is 0"),
        ("BOX_CODER.DELTA_WEIGHTS", [1.0, 0.0, 1.0, 1.0], "DELTA_WEIGHTS is .* has to be 4 numbers in"),
        ("BOX_CODER.DELTA_WEIGHTS", [1.0, 1.0], "DELTA_WEIGHTS is .* 4 numbers"),
        ("LOSS.NO_OBJECT_WEIGHT", 0.2, "NO_OBJECT_WEIGHT is 0.2, but HEAD.CLASSIFIER 'sigmoid' does not read it"),
        ("TEST.STAGE", 7, r"MODEL.SPARSE_RCNN.TEST.STAGE is 7. It has to be in"),
        ("HEAD.NUM_ATTENTION_HEADS", 0, "NUM_ATTENTION_HEADS is 0"),
        ("HEAD.NUM_ATTENTION_HEADS", 5, "NUM_ATTENTION_HEADS is 5. It has to be a divisor of the 32 channels"),
        ("LOSS.NORMALIZER", "images", "LOSS.NORMALIZER is 'images'. It has to be one of 'objects', 'matches'"),
    ],
)
def test_values_that_cannot_be(key: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_tiny(key, value)


def test_default_predictor() -> None:
    cfg = tiny_sparse_cfg()
    cfg.DATASETS.TEST = ()
    cfg.INPUT.MIN_SIZE_TEST = 64
    found = DefaultPredictor(cfg)(np.zeros((48, 64, 3), np.uint8))["instances"]
    assert found.image_size == (48, 64)


def test_it_can_be_traced() -> None:
    """As counting operations needs it."""
    program = DetectorProgram(build_tiny())
    counts = FlopCountAnalysis(program, (random_inputs(1)[0]["image"][None].float(), torch.tensor([[96, 128]])))
    counts.uncalled_modules_warnings(False).unsupported_ops_warnings(False)
    with program.traced_for_one_size():
        stages = [counts.by_module()[f"model.model.head.stages.{i}"] for i in range(2)]
    assert stages[0] == stages[1] > 12 * 32 * 2 * 32 * 8  # at least the layer that makes the dynamic ones
