"""Losses, gradients and detections of raw outputs that the cases give, without a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from detkit.dense import DenseDetector
from detkit.structures import DenseOutputs

from .cases import GoldenCase, find_cases
from .compare import Recorder
from .models import bare_detector, ground_truth_of, split_levels, targets_of
from .sources import cfg_of, code_of, not_covered, settings_of

RecorderOf = Callable[[GoldenCase], Recorder]


def _parts(kind: str) -> pytest.MarkDecorator:
    """Each case with each of its settings."""
    parts = [(case, k) for case in find_cases(kind) for k in range(len(case.meta["cases"]))]
    return pytest.mark.parametrize(("case", "k"), parts, ids=[f"{case.id}-{k}" for case, k in parts])


def _settings_cases(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", find_cases(*kinds), ids=lambda case: case.id)


@_parts("losses")
def test_losses(case: GoldenCase, k: int, recorder_of: RecorderOf) -> None:
    settings = settings_of(case.meta["cases"][k])
    _skip_unless_covered(case)
    recorder = recorder_of(case)
    model = bare_detector(cfg_of(case, settings))
    given = {name: case.tensor(f"c{k}_{name}").requires_grad_() for name in ("logits", "reg", "ctr")}
    outputs = _outputs(case, model, given)
    losses = _losses(case, k, model, outputs)
    recorder.close("losses", f"c{k}_losses", torch.stack(list(losses.values())), case.tensor(f"c{k}_losses"))
    if "moving_num_fg_after" in case.meta["cases"][k]:
        average = torch.tensor(case.meta["cases"][k]["moving_num_fg_after"])
        recorder.close("losses", f"c{k}_moving_num_fg_after", model.criterion.normalizer.average, average)
    sum(losses.values()).backward()
    for name, value in given.items():
        expected = case.tensor(f"c{k}_grad_{name}")
        actual = torch.zeros_like(value) if value.grad is None else value.grad
        if name == "reg":  # what the codes differentiate here stands behind their ReLU, which blocks the gradient at 0
            passes = value.detach() > 0 if code_of(case) != "facebookresearch/detectron2" else torch.ones_like(value, dtype=torch.bool)
            actual, expected = actual[passes], expected[passes]
        recorder.close("gradients", f"c{k}_grad_{name}", actual, expected)


@_parts("postprocess")
def test_postprocess(case: GoldenCase, k: int, recorder_of: RecorderOf) -> None:
    settings = settings_of(case.meta["cases"][k])
    _skip_unless_covered(case)
    model = bare_detector(cfg_of(case, settings))
    given = {name: case.tensor(f"c{k}_{name}") for name in ("logits", "reg", "ctr")}
    sizes = [tuple(size) for size in case.hyperparameters["image_hw"]]
    shift = 1 if code_of(case) == "tianzhi0549/FCOS" else 0
    for i, found in enumerate(model.detect(_outputs(case, model, given), sizes)):
        boxes, scores, classes = (case.tensor(f"c{k}_{name}{i}") for name in ("boxes", "scores", "classes"))
        actual = (found.pred_boxes.tensor, found.scores, found.pred_classes)
        recorder_of(case).same_detections(f"c{k} image {i}", actual, (boxes, scores, classes - shift))


@_settings_cases("official_atss", "mmdet_postprocess")
def test_postprocess_settings(case: GoldenCase, recorder_of: RecorderOf) -> None:
    _skip_unless_covered(case)
    images = case.hyperparameters.get("images")
    sizes = [tuple(image["img_shape"]) for image in images] if images else [tuple(size) for size in case.hyperparameters["image_sizes_hw"]]
    for name, settings in case.hyperparameters["settings"].items():
        model = _bare_with_classes(case, settings)
        found = model.detect(_level_outputs(case, model), sizes)
        for i, result in enumerate(found):
            expected = tuple(case.tensor(f"{name}_{what}{i}") for what in ("boxes", "scores", "classes"))
            actual = (result.pred_boxes.tensor, result.scores, result.pred_classes)
            recorder_of(case).same_detections(f"setting {name} image {i}", actual, expected)


@_settings_cases("official_atss")
def test_official_atss_losses(case: GoldenCase, recorder_of: RecorderOf) -> None:
    recorder = recorder_of(case)
    model = _bare_with_classes(case, {})
    outputs = _level_outputs(case, model)
    maps = {"cls": outputs.logits, "reg": outputs.boxes, "ctr": outputs.quality}
    for level_map in (x for maps_of_kind in maps.values() for x in maps_of_kind):
        level_map.requires_grad_()
    losses = model.losses(outputs, ground_truth_of(case, len(case.arrays["cls0"])), case.hyperparameters["image_sizes_hw"])
    expected = torch.stack([case.tensor(name) for name in ("loss_cls", "loss_reg", "loss_centerness")])
    recorder.close("losses", "losses", torch.stack(list(losses.values())), expected)
    sum(losses.values()).backward()
    for name, values in maps.items():
        norms = torch.stack([torch.zeros(()) if x.grad is None else x.grad.norm() for x in values])
        recorder.close("gradients", f"grad_{name}", norms, case.tensor(f"grad_{name}"))


def _skip_unless_covered(case: GoldenCase) -> None:
    reason = not_covered(case)
    if reason:
        pytest.skip(reason)


def _losses(case: GoldenCase, k: int, model: DenseDetector, outputs: DenseOutputs) -> dict[str, Tensor]:
    num_images = len(outputs.logits[0])
    sizes = [tuple(case.hyperparameters["image_hw"])] * num_images
    gt = ground_truth_of(case, num_images, f"c{k}_")
    priors = model.prior_generator(outputs.level_sizes)
    assignment, targets = targets_of(case, model, gt, priors, sizes)
    if "loss_normalizer" in case.meta["cases"][k]:
        _replay_average(case, k, model, float(targets.positive.sum()))
    return model.criterion(model.pipeline.decode(outputs)[0], assignment, gt, priors)


def _replay_average(case: GoldenCase, k: int, model: DenseDetector, positives: float) -> None:
    """Sets Detectron2's moving normalizer to its value before part k: 300, or that after the part before, whichever leads on to k's."""
    before = [300.0] + [part["loss_normalizer"] for part in case.meta["cases"][:k]][-1:]
    after = case.meta["cases"][k]["loss_normalizer"]
    fitting = [value for value in before if abs(0.9 * value + 0.1 * max(positives, 1) - after) < 1e-3]
    assert fitting, f"{case.id} part {k}: {positives} positives do not lead to the normalizer {after}"
    model.criterion.normalizer.average.fill_(fitting[0])


def _outputs(case: GoldenCase, model: DenseDetector, given: dict[str, Tensor]) -> DenseOutputs:
    sizes = [tuple(size) for size in case.hyperparameters["level_sizes"]]
    boxes = _raw_of(case, model, given["reg"])
    return DenseOutputs(*(split_levels(x, sizes) for x in (given["logits"], boxes, given["ctr"])))


def _raw_of(case: GoldenCase, model: DenseDetector, regression: Tensor) -> Tensor:
    """What our head would have to give for the regression of a case, which most codes give behind exp or ReLU."""
    form = getattr(model.box_coder, "form", "delta")
    return regression.log() if form.startswith("exp") else regression


def _bare_with_classes(case: GoldenCase, settings: dict[str, Any]) -> DenseDetector:
    cfg = cfg_of(case, settings)
    cfg.MODEL[cfg.MODEL.META_ARCHITECTURE].NUM_CLASSES = case.arrays["cls0"].shape[1]
    return bare_detector(cfg)


def _level_outputs(case: GoldenCase, model: DenseDetector) -> DenseOutputs:
    levels = range(len(model.prior_generator.strides))
    boxes = [_raw_of(case, model, case.tensor(f"reg{level}")) for level in levels]
    return DenseOutputs([case.tensor(f"cls{level}") for level in levels], boxes, [case.tensor(f"ctr{level}") for level in levels])
