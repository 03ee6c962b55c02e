"""Sparse R-CNN's parts alone: matching, criterion, dynamic layers, a stage, box deltas, pooling."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from detectron2.modeling.poolers import assign_boxes_to_levels
from detectron2.structures import Boxes, Instances
from torch import Tensor

from detkit.assigners import AssignContext, HungarianAssigner
from detkit.assigners.costs import focal_class_cost, giou_cost, l1_cost, softmax_class_cost
from detkit.checkpoint.key_maps.sparsercnn import SPARSE_RCNN
from detkit.geometry import DeltaBoxCoder
from detkit.layers import PyramidPooler
from detkit.structures import GroundTruth, Predictions
from sparsercnn.criterion import FocalClassLoss, SetCriterion, SoftmaxClassLoss
from sparsercnn.head import IterativeHead, StageOutputs
from sparsercnn.interaction import DynamicConv, DynamicInteraction
from sparsercnn.stage import FeedForward, SelfAttention, Stage

from .cases import GoldenCase, procedural_state_dict
from .compare import Recorder
from .sparsercnn import cases

RecorderOf = Callable[[GoldenCase], Recorder]


def _cases(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases(*kinds), ids=lambda case: case.id)


@_cases("matcher")
def test_matching(case: GoldenCase, recorder_of: RecorderOf) -> None:
    recorder, hyper = recorder_of(case), case.hyperparameters
    focal = partial(focal_class_cost, alpha=hyper["alpha"], gamma=hyper["gamma"], eps=hyper["eps_in_log"])
    weights = {"class_weight": hyper["cost_class"], "l1_weight": hyper["cost_l1"], "giou_weight": hyper["cost_giou"]}
    for k, part in enumerate(case.meta["cases"]):
        assigner = HungarianAssigner(class_cost=focal if part["use_focal"] else softmax_class_cost, **weights)
        context = _context(case, f"c{k}_", part)
        costs, gt_index = assigner.costs(context), assigner(context).gt_index
        for i, count in enumerate(part["gt"]):
            own_costs = costs[i, :, :count]
            recorder.close("costs", f"c{k}_cost{i}", own_costs, case.tensor(f"c{k}_cost{i}"))
            matched = (gt_index[i] >= 0).nonzero().squeeze(1)
            pairs, expected = torch.stack([matched, gt_index[i, matched]]), case.tensor(f"c{k}_match{i}")
            if "either" in part["note"]:
                recorder.close("costs", f"total cost of c{k}, image {i}", own_costs[tuple(pairs)].sum(), own_costs[tuple(expected)].sum())
            else:
                recorder.equal(f"c{k}_match{i}", pairs, expected)


@_cases("mmdet_matcher")
def test_mmdetection_matching(case: GoldenCase, recorder_of: RecorderOf) -> None:
    recorder, hyper = recorder_of(case), case.hyperparameters
    class_cost = partial(focal_class_cost, alpha=hyper["alpha"], gamma=hyper["gamma"], eps=hyper["eps"])
    weights = hyper["weights"]
    size = torch.tensor([hyper["image_hw"]]).float()
    assigner = HungarianAssigner(class_cost=class_cost, class_weight=weights["cls"], l1_weight=weights["l1"], giou_weight=weights["giou"])
    for part in case.meta["cases"]:
        name = f"c{part['case']:02}"
        logits, boxes, gt_boxes = (case.tensor(f"{name}_{x}")[None] for x in ("logits", "pred_boxes", "gt_boxes"))
        classes = case.tensor(f"{name}_gt_column")[None]
        gt = GroundTruth(gt_boxes, classes, torch.ones_like(classes, dtype=torch.bool))
        gt_index = assigner(AssignContext(gt, predictions=Predictions(logits, boxes), image_sizes=size)).gt_index[0]
        recorder.equal(f"{name}_gt_index", gt_index, case.tensor(f"{name}_gt_index"))
        if not part["gts"]:
            continue
        costs = torch.cat(
            [
                weights["cls"] * class_cost(logits, classes),
                weights["l1"] * l1_cost(boxes, gt_boxes, size),
                weights["giou"] * giou_cost(boxes, gt_boxes),
            ]
        )
        if f"{name}_cost" in case.arrays:
            recorder.close("costs", f"{name}_cost", costs, case.tensor(f"{name}_cost"))
        matched = (gt_index >= 0).nonzero().squeeze(1)
        of_matched = costs[:, matched, gt_index[matched]].T
        recorder.close("costs", f"{name}_matched_costs", of_matched, case.tensor(f"{name}_matched_costs"))
        recorder.close("costs", f"{name}_total_cost", of_matched.sum(), case.tensor(f"{name}_total_cost"))


@_cases("criterion")
def test_criterion(case: GoldenCase, recorder_of: RecorderOf) -> None:
    recorder, hyper = recorder_of(case), case.hyperparameters
    weights = {f"{term}_weight": hyper[f"{term}_weight"] for term in ("class", "l1", "giou")}
    terms = {"loss_ce": ("cls", "class"), "loss_giou": ("giou", "giou"), "loss_bbox": ("l1", "l1")}
    for k, part in enumerate(case.meta["cases"]):
        focal, stages, num_classes = part["use_focal"], part["stages"], part["classes"]
        logits, boxes = (case.tensor(f"c{k}_{name}").requires_grad_() for name in ("logits", "boxes"))
        class_loss = (
            FocalClassLoss(alpha=hyper["alpha"], gamma=hyper["gamma"])
            if focal
            else SoftmaxClassLoss(num_classes=num_classes, no_object_weight=hyper["no_object_weight"])
        )
        assigner = HungarianAssigner(class_cost=focal_class_cost if focal else softmax_class_cost, **weights)
        contexts = [_context(case, f"c{k}_", part, stage) for stage in range(stages)]
        assignments = torch.stack([assigner(context).gt_index for context in contexts])
        criterion = SetCriterion(num_classes=num_classes, class_loss=class_loss, **weights)
        losses = criterion(StageOutputs(logits, boxes, logits, contexts[0].image_sizes), assignments, contexts[0].gt)
        expected = dict(zip(part["loss_names"], case.tensor(f"c{k}_losses"), strict=True))
        for name, value in expected.items():
            stem, _, stage = name.rpartition("_") if name[-1].isdigit() else (name, "", "")
            ours, weight = terms[stem]
            loss = losses[f"loss_{ours}{f'_stage{stage}' if stage else ''}"]
            recorder.close("losses", f"c{k}: {name}", loss / hyper[f"{weight}_weight"], value)
        sum(losses.values()).backward()
        recorder.close("gradients", f"c{k}_grad_logits", logits.grad, case.tensor(f"c{k}_grad_logits"))
        recorder.close("gradients", f"c{k}_grad_boxes", boxes.grad, case.tensor(f"c{k}_grad_boxes"))


@_cases("dynamic_conv")
def test_dynamic_layers(case: GoldenCase, recorder_of: RecorderOf) -> None:
    recorder, hyper = recorder_of(case), case.hyperparameters
    assert hyper["num_dynamic"] == 2
    conv = DynamicConv(channels=hyper["hidden_dim"], dynamic_channels=hyper["dim_dynamic"], bins=hyper["pooler_resolution"] ** 2)
    prefixes = ("head.head_series.0.inst_interact.", "head.stages.0.interaction.conv.")
    conv.load_state_dict(_renamed(case, *prefixes))
    features, rois = (case.tensor(name).requires_grad_() for name in ("proposal_features", "roi_features"))
    output = conv(features[0], rois.transpose(0, 1))
    recorder.close("output", "output", output, case.tensor("output"))
    (output * case.tensor("cotangent")).sum().backward()
    for name, gradient in (("grad_proposal_features", features.grad), ("grad_roi_features", rois.grad)):
        index, expected = case.sampled(name)
        actual = gradient.flatten() if index is None else gradient.flatten()[index]
        recorder.close("gradients", name, actual, expected, largest=expected.abs().max())
    recorder.close("gradients", "grad_norm_dynamic_layer", conv.generator.weight.grad.norm()[None], case.tensor("grad_norm_dynamic_layer"))


@_cases("stage")
def test_stage(case: GoldenCase, recorder_of: RecorderOf) -> None:
    recorder, hyper = recorder_of(case), case.hyperparameters
    channels, bins = hyper["d_model"], 49
    stage = Stage(
        channels=channels,
        num_logits=hyper["classes"],
        interaction=DynamicInteraction(channels=channels, dynamic_channels=hyper["dim_dynamic"], bins=bins),
        attention=SelfAttention(channels=channels, num_heads=hyper["attention_heads"]),
        ffn=FeedForward(channels=channels, hidden_channels=hyper["dim_feedforward"]),
        num_cls_layers=hyper["num_cls_layers"],
        num_box_layers=hyper["num_reg_layers"],
    ).eval()
    stage.load_state_dict(_renamed(case, "head.head_series.0.", "head.stages.0."))
    pooler = PyramidPooler(7, [1 / 4, 1 / 8, 1 / 16, 1 / 32], 2, "ROIAlignV2")
    head = IterativeHead(stages=[stage], pooler=pooler, box_coder=DeltaBoxCoder((2.0, 2.0, 1.0, 1.0), scale_clamp=np.log(100000 / 16)))
    random = np.random.RandomState(zlib.crc32(f"{case.meta['weights']['seed']}:rcnnhead".encode()))
    height, width = hyper["image_hw"]
    pyramid = [torch.from_numpy(random.randn(2, channels, height // s, width // s).astype(np.float32)) for s in (4, 8, 16, 32)]
    boxes = case.tensor("boxes")
    levels = assign_boxes_to_levels([Boxes(each) for each in boxes], 2, 5, 224, 4)
    recorder.equal("levels", levels, case.tensor("levels"))
    rois = pooler(pyramid, boxes)
    recorder.close("output", "roi_features_first", rois[:, :4], case.tensor("roi_features_first"))
    with torch.no_grad():
        outputs = head(
            pyramid, boxes, case.tensor("proposal_features").view(*boxes.shape[:2], channels), torch.tensor([[height, width]] * 2)
        )
    recorder.close("logits", "logits", outputs.logits[0], case.tensor("logits"))
    # a corner is the difference of numbers as large as the image, whose last digits differ from processor to processor
    rounding = 4 * torch.finfo(torch.float32).eps * float(case.tensor("pred_boxes").abs().max())
    recorder.close("boxes", "pred_boxes", outputs.boxes[0], case.tensor("pred_boxes"), floor=rounding)
    recorder.close("features", "obj_features", outputs.features[0].flatten(0, 1)[None], case.tensor("obj_features"))


@_cases("deltas")
def test_box_deltas(case: GoldenCase, recorder_of: RecorderOf) -> None:
    weights = next(value for name, value in case.hyperparameters.items() if name.startswith("weights"))
    coder = DeltaBoxCoder(weights, scale_clamp=case.hyperparameters["scale_clamp"])
    boxes, expected = coder.apply(case.tensor("deltas"), case.tensor("boxes")), case.tensor("output")
    recorder_of(case).close("output", "output", boxes, expected, largest=expected.abs().amax(1, keepdim=True))


@_cases("pooler")
def test_pooling(case: GoldenCase, recorder_of: RecorderOf) -> None:
    recorder, hyper = recorder_of(case), case.hyperparameters
    bounds = (hyper["min_level"], hyper["max_level"], hyper["canonical_box_size"], hyper["canonical_level"])
    recorder.equal("levels", assign_boxes_to_levels([Boxes(case.tensor("boxes"))], *bounds), case.tensor("levels"))
    scales = [2.0**-level for level in range(hyper["min_level"], hyper["max_level"] + 1)]
    pooler = PyramidPooler(hyper["output_size"], scales, hyper["sampling_ratio"], "ROIAlignV2" if hyper["aligned"] else "ROIAlign")
    pooled = pooler([case.tensor(f"feat{level}") for level in range(len(scales))], case.tensor("pool_boxes")[None])
    recorder.close("output", "pooled", pooled, case.tensor("pooled"))


def _context(case: GoldenCase, prefix: str, part: dict, stage: int | None = None) -> AssignContext:
    """What the assigner sees of one part of a case, of one of its stages."""
    instances = []
    for i in range(part["batch"]):
        instance = Instances((1, 1))
        instance.gt_boxes = Boxes(case.tensor(f"{prefix}gt_boxes{i}"))
        instance.gt_classes = case.tensor(f"{prefix}gt_classes{i}")
        instances.append(instance)
    logits, boxes = case.tensor(f"{prefix}logits"), case.tensor(f"{prefix}boxes")
    predictions = Predictions(logits, boxes) if stage is None else Predictions(logits[stage], boxes[stage])
    sizes = torch.tensor(part["image_wh"]).float().flip(1)
    return AssignContext(GroundTruth.from_instances(instances), predictions=predictions, image_sizes=sizes)


def _renamed(case: GoldenCase, official_prefix: str, our_prefix: str) -> dict[str, Tensor]:
    """The weights of a part of the official head, with our names."""
    weights = procedural_state_dict(case)
    return {str(SPARSE_RCNN.rename(official_prefix + key)).removeprefix(our_prefix): value for key, value in weights.items()}
