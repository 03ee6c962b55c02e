"""Sparse R-CNN: whole models against PeizeSun/SparseR-CNN and mmdetection, with their weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from detectron2.structures import ImageList
from torch import Tensor

from detkit.checkpoint import ConversionReport
from detkit.checkpoint.key_maps import KEY_MAPS
from detkit.structures import GroundTruth
from sparsercnn import SparseRCNN
from sparsercnn.head import StageOutputs

from .cases import GoldenCase
from .compare import Recorder
from .models import ground_truth_of, image_inputs, train_mode
from .sparsercnn import cases, is_mmdetection, whole_model

RecorderOf = Callable[[GoldenCase], Recorder]


def _cases(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases(*kinds), ids=lambda case: case.id)


@_cases("inference")
def test_inference(case: GoldenCase, recorder_of: RecorderOf) -> None:
    recorder = recorder_of(case)
    model, cfg, report = whole_model(case)
    _check_conversion(case, report)
    inputs = image_inputs(case, cfg)
    with torch.no_grad():
        images = model.eval().preprocess_image(inputs)
        _compare_network(recorder, case, model, images)
        outputs = model.predict(images)
        _compare_stages(recorder, case, outputs)
        found = model.postprocessor(outputs.logits[-1], outputs.boxes[-1]).to_instances(images.image_sizes)
        finals = model(inputs)
    for i, detections in enumerate(found):
        for name, result in (("det", detections), ("final", finals[i]["instances"])):
            if f"{name}_boxes{i}" in case.arrays:
                expected = tuple(case.tensor(f"{name}_{part}{i}") for part in ("boxes", "scores", "classes"))
                recorder.same_detections(f"{name}{i}", (result.pred_boxes.tensor, result.scores, result.pred_classes), expected)


@_cases("train")
def test_training(case: GoldenCase, recorder_of: RecorderOf) -> None:
    recorder = recorder_of(case)
    model, cfg, report = whole_model(case)
    _check_conversion(case, report)
    inputs = image_inputs(case, cfg)
    gt = ground_truth_of(case, len(inputs))
    train_mode(model).zero_grad()
    images = model.preprocess_image(inputs)
    outputs = model.predict(images)
    _compare_stages(recorder, case, outputs)
    _compare_matching(recorder, case, outputs, model.assign(outputs, gt), gt)
    losses = model.losses(outputs, gt)
    _compare_losses(recorder, case, losses, gt)
    sum(losses.values()).backward()
    _compare_gradients(recorder, case, model, report.source, gt)


@pytest.mark.parametrize(
    "case", [case for case in cases("train") if "all_empty_losses_weighted" in case.meta["outputs"]], ids=lambda case: case.id
)
def test_batches_without_objects(case: GoldenCase, recorder_of: RecorderOf) -> None:
    model, cfg, _ = whole_model(case)
    images = train_mode(model).preprocess_image(image_inputs(case, cfg))
    empty = GroundTruth(torch.zeros(len(images), 0, 4), torch.zeros(len(images), 0, dtype=torch.int64), torch.zeros(len(images), 0).bool())
    with torch.no_grad():
        losses = model.losses(model.predict(images), empty)
    recorder_of(case).close("losses", "losses without objects", _official_order(losses), case.tensor("all_empty_losses_weighted"))


def _check_conversion(case: GoldenCase, report: ConversionReport) -> None:
    """Every official key is used once or known to be of no use, and every weight of ours is set."""
    assert report.complete, str(report)
    assert len(report.loaded) + len(report.ignored) == len(case.state_shapes)
    assert all(key.endswith("num_batches_tracked") for key in report.ignored)


def _compare_network(recorder: Recorder, case: GoldenCase, model: SparseRCNN, images: ImageList) -> None:
    pyramid = model.backbone(images.tensor)
    boxes, _ = model.proposals(torch.tensor(images.image_sizes).float())
    ours = {"batch": images.tensor, "init_boxes": boxes} | {f"init_boxes{i}": each for i, each in enumerate(boxes)}
    for level, name in enumerate(model.in_features):
        ours |= {f"feat_{name}": pyramid[name], f"fpn{level}": pyramid[name]}
    for name, value in ours.items():
        _compare_sampled(recorder, case, "boxes" if "boxes" in name else "raw", name, value)


def _compare_stages(recorder: Recorder, case: GoldenCase, outputs: StageOutputs) -> None:
    features = outputs.features[..., :8] if "stage_features" in case.arrays else outputs.features
    ours = {"stage_boxes": outputs.boxes, "stage_logits": outputs.logits, "stage_features": features}
    ours["stage_logits_sub"] = outputs.logits[..., :5]
    for stage in range(len(outputs.logits)):
        ours[f"stage{stage}_logits"] = outputs.logits[stage]
        ours[f"stage{stage}_boxes"] = outputs.boxes[stage]
        ours[f"stage{stage}_object_feats"] = outputs.features[stage]
    for name, value in ours.items():
        quantity = "boxes" if "boxes" in name else "features" if "feat" in name else "logits"
        _compare_sampled(recorder, case, quantity, name, value)


def _compare_sampled(recorder: Recorder, case: GoldenCase, quantity: str, name: str, value: Tensor) -> None:
    stored = case.sampled(name)
    if stored is not None:
        index, expected = stored
        recorder.close(quantity, name, value.flatten() if index is None else value.flatten()[index], expected)


def _compare_matching(recorder: Recorder, case: GoldenCase, outputs: StageOutputs, assignments: Tensor, gt: GroundTruth) -> None:
    for stage, per_image in enumerate(assignments):
        for i, gt_index in enumerate(per_image):
            if f"stage{stage}_gt_index{i}" in case.arrays:
                recorder.equal(f"stage{stage}_gt_index{i}", gt_index, case.tensor(f"stage{stage}_gt_index{i}"))
            if f"match_stage{stage}_image{i}" in case.arrays:
                matched = (gt_index >= 0).nonzero().squeeze(1)
                pairs = torch.stack([matched, gt_index[matched]])
                recorder.equal(f"match_stage{stage}_image{i}", pairs, case.tensor(f"match_stage{stage}_image{i}"))
        names = case.meta.get("loss_names", [])
        if f"s{stage}.pos_acc" in names:
            accuracy = _accuracy(outputs.logits[stage], per_image, gt)
            expected = case.tensor("losses")[names.index(f"s{stage}.pos_acc")]
            recorder.close("losses", f"accuracy of stage {stage}", accuracy, expected)


def _accuracy(logits: Tensor, gt_index: Tensor, gt: GroundTruth) -> Tensor:
    """Percentage of the matched proposals whose best class is their object's."""
    matched = gt_index >= 0
    if not matched.any():
        return torch.tensor(0.0)
    labels = gt.classes.gather(1, gt_index.clamp(min=0))[matched]
    return 100 * (logits[matched].argmax(-1) == labels).float().mean()


def _official_order(losses: dict[str, Tensor]) -> Tensor:
    """Last stage first; classes, GIoU, L1."""
    stages = len(losses) // 3
    suffixes = ["", *(f"_stage{stage}" for stage in range(stages - 1))]
    return torch.stack([losses[f"loss_{term}{suffix}"] for suffix in suffixes for term in ("cls", "giou", "l1")])


def _without_normalizer(case: GoldenCase, gt: GroundTruth) -> float:
    """mmdetection divides by float32's epsilon where there is no object, ours by 1."""
    return float(torch.finfo(torch.float32).eps) if is_mmdetection(case) and not gt.valid.any() else 1.0


def _compare_losses(recorder: Recorder, case: GoldenCase, losses: dict[str, Tensor], gt: GroundTruth) -> None:
    if not is_mmdetection(case):
        recorder.close("losses", "weighted losses", _official_order(losses), case.tensor("losses_weighted"))
        weights = torch.tensor([case.meta["loss_weights"][name] for name in case.meta["loss_names"]])
        recorder.close("losses", "losses", _official_order(losses) / weights, case.tensor("losses_unweighted"))
        recorder.close("losses", "total loss", sum(losses.values())[None], case.tensor("total_loss"))
        return
    stages, factor = len(losses) // 3, _without_normalizer(case, gt)
    terms = {"loss_cls": "cls", "loss_bbox": "l1", "loss_iou": "giou"}
    for name, expected in zip(case.meta["loss_names"], case.tensor("losses"), strict=True):
        stage, term = name.removeprefix("s").split(".")
        if term in terms:
            suffix = "" if int(stage) == stages - 1 else f"_stage{stage}"
            recorder.close("losses", name, losses[f"loss_{terms[term]}{suffix}"], expected * factor)
    recorder.close("losses", "total loss", sum(losses.values()), case.tensor("loss_total") * factor)


def _compare_gradients(recorder: Recorder, case: GoldenCase, model: SparseRCNN, source: str, gt: GroundTruth) -> None:
    key_map = next(key_map for key_map in KEY_MAPS if key_map.name == source)
    parameters = dict(model.named_parameters())
    names = case.meta.get("gradient_parameters") or case.meta["grad_norm_names"]
    gradients = [parameters[key_map.rename(name)].grad for name in names]
    flat = [torch.zeros(1) if gradient is None else gradient.flatten() for gradient in gradients]
    stored = case.tensor("grad_norm" if "grad_norm" in case.arrays else "grad_norms") * _without_normalizer(case, gt)
    recorder.close("gradients", "gradient norms", torch.stack([gradient.norm() for gradient in flat]), stored)
    if "grad_head" in case.arrays:
        heads = torch.stack([torch.nn.functional.pad(gradient, (0, 4))[:4] for gradient in flat])
        gap = (heads - case.tensor("grad_head")).abs().amax(1)
        assert (gap <= 5e-3 * stored + 1e-9).all(), f"{case.id}: first gradient elements differ"
    if "grad_norm_total" in case.arrays:
        total = torch.stack([p.grad.norm() for p in parameters.values() if p.grad is not None]).norm()
        recorder.close("gradients", "total gradient norm", total[None], case.tensor("grad_norm_total"))
    without = {key_map.rename(name) for name in case.meta.get("parameters_without_gradient", ())}
    assert without <= {name for name, p in parameters.items() if p.grad is None or not p.grad.any()}
