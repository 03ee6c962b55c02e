"""Whole detectors with official weights: pyramid, raw outputs, targets, losses, gradients, detections."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detkit.checkpoint import ConversionReport
from detkit.checkpoint.key_maps import KEY_MAPS
from detkit.dense import DenseDetector
from detkit.dense.criteria import DenseTargets
from detkit.geometry import PointBoxCoder, Priors, boxes_to_ltrb
from detkit.structures import HardAssignment

from .cases import GoldenCase, find_cases
from .compare import Recorder
from .models import (
    ground_truth_of,
    image_inputs,
    official_regression,
    run_network,
    run_network_with_gradient,
    targets_of,
    train_mode,
    whole_model,
)
from .sources import code_of, not_covered


def _cases(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", find_cases(*kinds), ids=lambda case: case.id)


@_cases("inference")
def test_inference(case: GoldenCase, recorder_of: Callable[[GoldenCase], Recorder]) -> None:
    _skip_unless_covered(case)
    recorder = recorder_of(case)
    model, cfg, report = whole_model(case)
    _check_conversion(case, report)
    inputs = image_inputs(case, cfg)
    _compare_maps(recorder, case, model.eval(), inputs)
    _, _, outputs, sizes = run_network(model, inputs)
    shift = 1 if code_of(case) == "tianzhi0549/FCOS" else 0
    with torch.no_grad():
        finals = model(inputs)
    for i, found in enumerate(model.detect(outputs, sizes)):
        expected = _stored_detections(case, f"det_{{}}{i}", shift)
        recorder.same_detections(f"det{i}", (found.pred_boxes.tensor, found.scores, found.pred_classes), expected)
        if f"final_boxes{i}" not in case.arrays:
            continue
        final = finals[i]["instances"]
        boxes, scores, classes = _stored_detections(case, f"final_{{}}{i}", shift)
        boxes = _as_detectron2(boxes, inputs[i], model.prior_generator.plus_one)
        keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
        recorder.same_detections(
            f"final{i}", (final.pred_boxes.tensor, final.scores, final.pred_classes), (boxes[keep], scores[keep], classes[keep])
        )


@_cases("train")
def test_training(case: GoldenCase, recorder_of: Callable[[GoldenCase], Recorder]) -> None:
    _skip_unless_covered(case)
    recorder = recorder_of(case)
    model, cfg, report = whole_model(case)
    _check_conversion(case, report)
    inputs = image_inputs(case, cfg)
    gt = ground_truth_of(case, len(inputs))
    train_mode(model).zero_grad()
    _compare_maps(recorder, case, model, inputs)
    _, _, outputs, sizes = run_network_with_gradient(model, inputs)
    priors = model.prior_generator(outputs.level_sizes)
    assignment, targets = targets_of(case, model, gt, priors, sizes)
    _compare_targets(recorder, case, model, priors, assignment, targets)

    losses = model.criterion(model.pipeline.decode(outputs)[0], assignment, gt, priors)
    recorder.close("losses", "losses", torch.stack(list(losses.values())), _stored_losses(case))
    sum(losses.values()).backward()
    _compare_gradients(recorder, case, model, report.source)


@_cases("official_raises")
def test_images_without_objects_train_where_the_official_code_raises(case: GoldenCase) -> None:
    _skip_unless_covered(case)
    twins = [other for other in find_cases("train", "inference") if other.folder == case.folder]
    twin = next((other for other in twins if other.hyperparameters == case.hyperparameters), None)
    if twin is None:
        pytest.skip("the case that holds the weights of this one is missing")
    model, cfg, _ = whole_model(twin)
    inputs = image_inputs(case, cfg) or image_inputs(twin, cfg)
    gt = ground_truth_of(case if case.arrays else twin, len(inputs))
    without = type(gt)(gt.boxes, gt.classes, torch.zeros_like(gt.valid))
    _, _, outputs, sizes = run_network(train_mode(model), inputs)
    for objects in (gt, without):
        assert all(loss.isfinite() for loss in model.losses(outputs, objects, sizes).values())
    assert model.losses(outputs, without, sizes)["loss_box"] == 0


def _skip_unless_covered(case: GoldenCase) -> None:
    reason = not_covered(case)
    if reason:
        pytest.skip(reason)


def _check_conversion(case: GoldenCase, report: ConversionReport) -> None:
    """Every official key is used once or known to be of no use, and every weight of ours is set."""
    assert report.complete, str(report)
    assert len(report.loaded) + len(report.ignored) == len(case.state_shapes)
    assert all(key.endswith("num_batches_tracked") for key in report.ignored)


def _compare_maps(recorder: Recorder, case: GoldenCase, model: DenseDetector, inputs: list[dict]) -> None:
    batch, pyramid, outputs, _ = run_network(model, inputs)
    regression = official_regression(case, model, outputs)
    ours = {"batch": batch}
    for level in range(len(pyramid)):
        for name, value in (("cls", outputs.logits), ("reg", regression), ("ctr", outputs.quality), ("fpn", pyramid)):
            ours[f"{name}{level}"] = value[level]
        for name, value in (("logits", outputs.logits), ("reg", regression), ("ctr", outputs.quality)):
            ours[f"{name}_p{level + 3}"] = value[level]
    for name, value in ours.items():
        stored = case.sampled(name)
        if stored is not None:
            index, expected = stored
            flat = value.flatten()
            recorder.close("raw", name, flat if index is None else flat[index], expected)


def _stored_detections(case: GoldenCase, template: str, class_shift: int) -> tuple[Tensor, Tensor, Tensor]:
    boxes, scores, classes = (case.tensor(template.format(name)) for name in ("boxes", "scores", "classes"))
    return boxes, scores, classes - class_shift


def _as_detectron2(boxes: Tensor, item: dict, plus_one: float) -> Tensor:
    """Final boxes of a code as Detectron2 gives them: exclusive corners, clipped to the output."""
    height, width = item["height"], item["width"]
    scale = torch.tensor([width / item["image"].shape[2], height / item["image"].shape[1]])
    boxes = boxes + torch.cat([torch.zeros(2), plus_one * scale])
    return boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]).float())


def _stored_losses(case: GoldenCase) -> Tensor:
    """Classes, boxes, quality: the order of all codes."""
    return case.tensor("losses") if "losses" in case.arrays else torch.tensor(list(case.meta["losses"].values()))


def _compare_targets(
    recorder: Recorder, case: GoldenCase, model: DenseDetector, priors: Priors, assignment: HardAssignment, targets: DenseTargets
) -> None:
    unit = model.box_coder.iou_unit(priors)[:, None]
    ltrb = boxes_to_ltrb(targets.boxes, priors.points) / unit
    for i in range(len(targets.labels)):
        positive = targets.positive[i]
        for name, actual in (("gt_index", assignment.gt_index[i]), ("pos_inds", positive.nonzero().squeeze(1))):
            if f"{name}{i}" in case.arrays:
                recorder.equal(f"{name}{i}", actual, case.tensor(f"{name}{i}"))
        for name, actual in (
            ("reg_targets", ltrb[i][positive]),
            ("ctr_targets", targets.centerness[i][positive]),
            ("pos_gt_boxes", targets.boxes[i][positive]),
            ("pos_centerness_targets", targets.centerness[i][positive]),
        ):
            if f"{name}{i}" in case.arrays:
                recorder.close("targets", f"{name}{i}", actual, case.tensor(f"{name}{i}").reshape(actual.shape))
    if "anchors" in case.arrays:
        anchors = case.tensor("anchors")  # zeros beyond the first image's own area
        recorder.close("boxes", "anchors", priors.boxes[anchors.any(1)], anchors[anchors.any(1)])
    if "label_weights" in case.arrays:
        ignored = torch.zeros_like(targets.positive) if targets.ignore is None else targets.ignore
        recorder.equal("label_weights", ~ignored, case.tensor("label_weights") > 0)
    if "labels" in case.arrays:
        _compare_labels(recorder, case, model, priors, targets, ltrb)


def _compare_labels(
    recorder: Recorder, case: GoldenCase, model: DenseDetector, priors: Priors, targets: DenseTargets, ltrb: Tensor
) -> None:
    """mmdetection's labels: per image for ATSS, per level over all images for FCOS."""
    stored = case.tensor("labels")
    if stored.dim() == 2:
        recorder.equal("labels", targets.labels, stored)
        return
    assert isinstance(model.box_coder, PointBoxCoder)
    per_level = [h * w for h, w in priors.grid.sizes]

    def level_major(x: Tensor) -> Tensor:
        return torch.cat([part.flatten(0, 1) for part in x.split(per_level, dim=1)])

    labels = level_major(targets.labels)
    recorder.equal("labels", labels, stored)
    positive = labels < model.num_classes
    recorder.close("targets", "pos_targets", level_major(ltrb)[positive], case.tensor("pos_targets").reshape(-1, 4))
    recorder.close("targets", "pos_centerness_targets", level_major(targets.centerness)[positive], case.tensor("pos_centerness_targets"))


def _compare_gradients(recorder: Recorder, case: GoldenCase, model: DenseDetector, source: str) -> None:
    key_map = next(key_map for key_map in KEY_MAPS if key_map.name == source)
    names = case.meta.get("gradient_parameters") or case.meta["grad_norm_names"]
    parameters = dict(model.named_parameters())
    gradients = [parameters[key_map.rename(name)].grad for name in names]
    flat = [torch.zeros(1) if gradient is None else gradient.flatten() for gradient in gradients]
    norms = torch.stack([gradient.norm() for gradient in flat])
    stored = case.tensor("grad_norm" if "grad_norm" in case.arrays else "grad_norms")
    recorder.close("gradients", "gradient norms", norms, stored)
    if "grad_head" in case.arrays:
        heads = torch.stack([torch.nn.functional.pad(gradient, (0, 4))[:4] for gradient in flat])
        gap = (heads - case.tensor("grad_head")).abs().amax(1)
        assert (gap <= 2e-3 * stored + 1e-9).all(), f"{case.id}: first gradient elements differ"
    if "grad_norm_total" in case.arrays:
        total = torch.stack([p.grad.norm() for p in parameters.values() if p.grad is not None]).norm()
        recorder.close("gradients", "total gradient norm", total[None], case.tensor("grad_norm_total").reshape(1))
