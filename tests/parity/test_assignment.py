"""The assigners, targets and centerness against what the published codes computed on many sets of boxes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from detkit.assigners import ATSSAssigner, FCOSAssigner
from detkit.geometry import (
    DeltaBoxCoder,
    Grid,
    Priors,
    boxes_to_ltrb,
    centerness_of,
    elementwise_iou,
    square_anchors,
)

from .cases import GoldenCase, find_cases
from .compare import Recorder
from .models import assign, with_detectron2_ties

FCOS_CASE = r"assign_(adet|d2|tianzhi)_(?:nocenter|center(\d+\.\d+))(?:_(norm|pixels))?"


@dataclass(frozen=True)
class GtSet:
    """One set of boxes of a case and what was computed for it.

    Attributes:
        name: for messages.
        boxes: (G, 4).
        level_sizes: (rows, columns) of each level.
        strides: of each level.
        arrays: by their name without the set's prefix.
        tie_sensitive: how many anchors depend on which of equally near ones is taken.
    """

    name: str
    boxes: Tensor
    level_sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    arrays: dict[str, Tensor]
    tie_sensitive: int

    @property
    def has_result(self) -> bool:
        """Some of the published codes raise without objects."""
        return "pos" in self.arrays


def gt_sets(case: GoldenCase) -> Iterator[GtSet]:
    """The sets of a case, in either of the two ways in which they are stored."""
    strides = tuple(case.hyperparameters["strides"])
    if "sets" in case.hyperparameters:
        entries = [(f"s{i}_", "boxes", entry) for i, entry in enumerate(case.hyperparameters["sets"])]
    else:
        entries = [(f"c{entry['case']:02d}_", "gt", entry) for entry in case.meta["cases"]]
    for prefix, boxes, entry in entries:
        arrays = {name.removeprefix(prefix): case.tensor(name) for name in case.arrays if name.startswith(prefix)}
        sizes = entry.get("level_sizes") or entry.get("levels") or _level_sizes(entry["image"], strides)
        ties = entry.get("tie_sensitive_anchors", 0)
        yield GtSet(f"{case.id} {prefix[:-1]}", arrays.pop(boxes), tuple(map(tuple, sizes)), strides, arrays, ties)


def _level_sizes(image: Sequence[int], strides: Sequence[int]) -> list[list[int]]:
    """Levels of an image that is padded to a multiple of 32, sizes rounded up."""
    padded = [-(-side // 32) * 32 for side in image]
    return [[-(-side // stride) for side in padded] for stride in strides]


def priors_of(gt_set: GtSet, *, offset: float, plus_one: float = 0.0, shrink: float = 0.0) -> Priors:
    """Square anchors of 8 strides less ``shrink`` pixels."""
    grid = Grid(gt_set.level_sizes, gt_set.strides, offset, torch.device("cpu"))
    return Priors(grid, square_anchors(gt_set.strides, plus_one=shrink), plus_one)


def dense(positive: Tensor, gt_index: Tensor, num_priors: int) -> Tensor:
    """gt index (P,) from the positive priors and their objects."""
    result = torch.full((num_priors,), -1, dtype=torch.int64)
    result[positive] = gt_index
    return result


def compare_targets(recorder: Recorder, gt_set: GtSet, priors: Priors, unit: Tensor, names: tuple[str, str, str]) -> None:
    """Distances, in units of ``unit`` (P,) pixels, and centerness of the positives; stored for a part of them where there is ``sub``.

    Args:
        names: of the arrays with gt index, distances, centerness.
    """
    positive, gt_index, distances, centerness = (gt_set.arrays[name] for name in ("pos", *names))
    if "sub" in gt_set.arrays:
        positive, gt_index = positive[gt_set.arrays["sub"]], gt_index[gt_set.arrays["sub"]]
    ltrb = boxes_to_ltrb(gt_set.boxes[gt_index], priors.points[positive])
    recorder.close("targets", f"{gt_set.name} targets", ltrb / unit[positive, None], distances)
    recorder.close("centerness", f"{gt_set.name} centerness", centerness_of(ltrb), centerness)


def check_fcos(recorder: Recorder) -> None:
    """tianzhi0549/FCOS, AdelaiDet and Detectron2; the case's name says which, the center radius and the unit."""
    code, radius, unit = re.fullmatch(FCOS_CASE, recorder.case.name).groups()
    assigner = FCOSAssigner(center_radius=float(radius or 0), inclusive_ranges=code != "d2")
    for gt_set in gt_sets(recorder.case):
        if not gt_set.has_result:
            continue
        priors = priors_of(gt_set, offset=0.5, plus_one=float(code == "tianzhi"))
        gt_index = assign(assigner, gt_set.boxes[None], priors)[0]
        if code == "d2":
            gt_index = with_detectron2_ties(assigner, gt_set.boxes, priors)
        recorder.equal(gt_set.name, gt_index, dense(gt_set.arrays["pos"], gt_set.arrays["gt"], priors.num_priors))
        lengths = torch.ones_like(priors.strides) if unit == "pixels" else priors.strides
        compare_targets(recorder, gt_set, priors, lengths, ("gt", "reg", "ctr"))


def check_mmdet_fcos(recorder: Recorder) -> None:
    settings = recorder.case.hyperparameters
    assigner = FCOSAssigner(
        sizes_of_interest=[high for _, high in settings["regress_ranges"][:-1]],
        center_radius=settings["center_sample_radius"] if settings["center_sampling"] else 0.0,
    )
    for gt_set in gt_sets(recorder.case):
        priors = priors_of(gt_set, offset=0.5)
        gt_index = assign(assigner, gt_set.boxes[None], priors)[0]
        recorder.equal(gt_set.name, gt_index, dense(gt_set.arrays["pos"], gt_set.arrays["gt_index"], priors.num_priors))
        lengths = priors.strides if settings["targets_divided_by_stride"] else torch.ones_like(priors.strides)
        compare_targets(recorder, gt_set, priors, lengths, ("gt_index", "targets", "centerness"))


def check_mmdet_atss(recorder: Recorder) -> None:
    settings = recorder.case.hyperparameters
    assigner = ATSSAssigner(topk=settings["topk"])
    for gt_set in gt_sets(recorder.case):
        priors = priors_of(gt_set, offset=float(settings["center_offset"]))
        ties = "_tie_first" if "pos_tie_first" in gt_set.arrays else ""  # equally near anchors: ours takes the lowest
        expected = dense(gt_set.arrays[f"pos{ties}"], gt_set.arrays[f"gt_index{ties}"], priors.num_priors)
        recorder.equal(gt_set.name, assign(assigner, gt_set.boxes[None], priors)[0], expected)
        ious = elementwise_iou(priors.boxes[gt_set.arrays["pos"]], gt_set.boxes[gt_set.arrays["gt_index"]])
        if len(expected[expected >= 0]):
            torch.testing.assert_close(ious, gt_set.arrays["iou"], rtol=0, atol=1e-5)


def check_official_atss(recorder: Recorder) -> None:
    """With the authors' anchors and with mmdetection's. Which of equally near anchors the code took depends on ``torch.topk``."""
    assigner = ATSSAssigner(topk=recorder.case.hyperparameters["topk"])
    for gt_set in gt_sets(recorder.case):
        if not gt_set.has_result:
            continue
        own = priors_of(gt_set, offset=0.5, plus_one=1.0, shrink=1.0)
        for suffix, priors in [("", own), ("_mm_anchors", priors_of(gt_set, offset=0.0, plus_one=1.0))]:
            gt_index = assign(assigner, gt_set.boxes[None], priors)[0]
            expected = dense(gt_set.arrays[f"pos{suffix}"], gt_set.arrays[f"gt_index{suffix}"], priors.num_priors)
            if gt_set.tie_sensitive:
                differing = int((gt_index != expected).sum())
                assert differing <= gt_set.tie_sensitive, f"{gt_set.name}{suffix}: {differing} anchors differ"
            else:
                recorder.equal(f"{gt_set.name}{suffix}", gt_index, expected)
        positive, matched = gt_set.arrays["pos"], torch.zeros_like(own.boxes)
        matched[positive] = gt_set.boxes[gt_set.arrays["gt_index"]]
        deltas = DeltaBoxCoder().encode(matched, own)[positive]
        recorder.close("targets", f"{gt_set.name} targets", deltas, gt_set.arrays["targets"])
        centerness = centerness_of(boxes_to_ltrb(matched, own.points))[positive]
        recorder.close("centerness", f"{gt_set.name} centerness", centerness, gt_set.arrays["centerness"])


CHECKS: dict[str, Callable[[Recorder], None]] = {
    f"fcos/{FCOS_CASE}": check_fcos,
    r"mmdet_fcos/targets_pure_.*": check_mmdet_fcos,
    r"mmdet_atss/assigner_pure.*": check_mmdet_atss,
    r"atss_official/assigner_pure.*": check_official_atss,
}


@pytest.mark.parametrize("case", find_cases("assignment"), ids=lambda case: case.id)
def test_assignment(case: GoldenCase, recorder_of: Callable[[GoldenCase], Recorder]) -> None:
    for pattern, check in CHECKS.items():
        if re.fullmatch(pattern, f"{case.set_name}/{case.name}"):
            check(recorder_of(case))
            return
    pytest.skip(f"no check reads the assignments of {case.set_name}/{case.name}")
