"""Parts of LSNet against the official code: assignment, cross-IoU, coordinates, the convolution on several levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detkit.assigners import AssignContext, CentroidAssigner, PredictedATSSAssigner
from detkit.geometry import Grid, Priors, elementwise_iou
from detkit.structures import GroundTruth, Predictions
from lsnet.convolution import convolve_at
from lsnet.corner_targets import corner_targets
from lsnet.cross_iou import CrossIoULoss, cross_coordinates
from lsnet.landmarks import Contour, ExtremePoints, Keypoints, LandmarkSet, point_offsets
from lsnet.sampling import kernel_offsets, level_scales

from .cases import GoldenCase, find_cases
from .compare import Recorder
from .lsnet_cases import ComparedArrays

RecorderOf = Callable[[GoldenCase], Recorder]
CPU = torch.device("cpu")
STRIDES = (8, 16, 32, 64, 128)
SETS_OF_LANDMARKS: dict[str, LandmarkSet] = {"bbox": ExtremePoints(), "segm": Contour(36), "pose_kbox": Keypoints(17)}
_CASES = [case for case in find_cases(sets=("lsnet",)) if case.kind != "landmark_targets"]


def kind_of(case: GoldenCase) -> str:
    """What a case holds, by its content."""
    marks = {"assigners": "hm_tl_0", "cross_iou": "soft_target0", "pyramid_dcn": "grad_offset0", "coords": "bbox.dcn_offset"}
    if case.state_shapes or "head" in case.hyperparameters:
        return "detector"
    return next((kind for kind, name in marks.items() if name in (case.meta.get("outputs") or {})), "unknown")


@pytest.mark.parametrize("case", [case for case in _CASES if kind_of(case) != "detector"], ids=lambda case: case.id)
def test_case(case: GoldenCase, recorder_of: RecorderOf) -> None:
    checks = {
        "assigners": _check_assigners,
        "cross_iou": _check_cross_iou,
        "pyramid_dcn": _check_pyramid_dcn,
        "coords": _check_coordinates,
    }
    kind = kind_of(case)
    if kind not in checks:
        pytest.skip(f"content of an unknown kind: {case.set_name}/{case.name}")
    compared = ComparedArrays(case, recorder_of(case))
    checks[kind](compared)
    compared.check_all_seen()


def _check_assigners(compared: ComparedArrays) -> None:
    k = 0
    while f"boxes{k}" in compared:
        boxes = compared.tensor(f"boxes{k}")[None]
        extremes = compared.tensor(f"extremes{k}").reshape(1, -1, 5, 2)[:, :, :4]
        everyone = torch.ones(boxes.shape[:2], dtype=torch.bool)
        gt = GroundTruth(boxes, everyone.long(), everyone, torch.cat([extremes, torch.ones_like(extremes[..., :1])], dim=-1))
        grid = Grid(tuple(tuple(size) for size in compared.tensor(f"shapes{k}").tolist()), STRIDES, 0.0, CPU)
        priors = Priors(grid, tuple(torch.zeros(1, 4) for _ in STRIDES))
        for middle in ("center", "centroid"):
            for count in (1, 3):
                found = CentroidAssigner(num_points=count, middle=middle)(AssignContext(gt, priors)).gt_index[0]
                compared.equal(f"{middle}{count}_{k}", found)
        predicted = compared.tensor(f"pred_boxes{k}")
        context = AssignContext(gt, priors, Predictions(predicted.new_zeros(1, len(predicted), 0), predicted[None]))
        found = PredictedATSSAssigner(topk=compared.case.hyperparameters["topk"])(context).gt_index[0]
        compared.equal(f"atss_{k}", found)
        compared.close("weights", f"atss_iou_{k}", elementwise_iou(predicted, boxes[0, found.clamp(min=0)])[found >= 0])
        for name, corners in (("tl", boxes[..., :2]), ("br", boxes[..., 2:])):
            targets = corner_targets(corners, gt, grid, None)
            compared.close("heat maps", f"hm_{name}_{k}", targets.heat[0])
            compared.close("heat maps", f"off_{name}_{k}", targets.offsets[0])
            assert torch.equal(targets.positive[0].nonzero().squeeze(1), compared.tensor(f"pos_{name}_{k}").unique())
        k += 1


def _check_cross_iou(compared: ComparedArrays) -> None:
    for part in compared.case.meta["scalars"]["cases"]:
        k = part["case"]
        if f"pred{k}" not in compared:
            continue
        pred = compared.tensor(f"pred{k}").unflatten(1, (-1, 4)).requires_grad_()
        hard, side = compared.tensor(f"target{k}").unflatten(1, (-1, 2)), compared.tensor(f"side{k}").unflatten(1, (-1, 2)).bool()
        lengths = (hard * side).sum(-1)
        offsets = torch.where(side[..., 1], lengths, -lengths).unflatten(1, (-1, 2)).flip(-1)  # x, y
        compared.close("losses", f"soft_target{k}", cross_coordinates(offsets, part["alpha"]).flatten(1))
        landmarks = {"bbox": ExtremePoints(), "polygon": Contour(36), "keypoint": Keypoints()}[part["loss_type"]]
        known = torch.ones(pred.shape[:2], dtype=torch.bool)
        visible = compared.tensor(f"vis{k}") > 0
        if part["loss_type"] == "keypoint":
            known[:, :-1] = visible
        boxes = compared.tensor(f"gt_box{k}") - compared.tensor(f"anchor{k}").repeat(1, 2)
        pairs = landmarks.pairs(pred, offsets, known, boxes)
        if part["loss_type"] == "polygon":  # whose points may be grouped by another distance than nine
            pairs = replace(pairs, groups=part["stride"])
        rows = part["loss_weight"] * CrossIoULoss(alpha=part["alpha"])(pairs)
        weights = compared.tensor(f"weight{k}").mean(1)
        weighted = rows * weights
        average = weighted.sum() / 3
        average.backward()
        compared.close("losses", f"loss_none{k}", weighted, floor=1e-7)
        compared.close("losses", f"loss_mean{k}", weighted.mean())
        compared.close("losses", f"loss_sum{k}", weighted.sum())
        compared.close("losses", f"loss_avg{k}", average)
        compared.close("gradients", f"grad{k}", pred.grad.flatten(1), floor=1e-7)


def _check_pyramid_dcn(compared: ComparedArrays) -> None:
    k = 0
    while f"x{k}" in compared:
        # in float64, so that the rounding of only one side is left
        given = {name: compared.tensor(f"{name}{k}") for name in ("x", "offset", "weight")}
        given["offset"] = _rounded_offsets(given["offset"], (given["x"].shape[2], given["x"].shape[3]))
        leaves = {name: value.double().requires_grad_() for name, value in given.items()}
        y = convolve_at(leaves["x"], leaves["offset"], leaves["weight"])
        y.backward(compared.tensor(f"grad_out{k}").double())
        compared.close("output", f"y{k}", y, floor=1e-5)
        for name, leaf in leaves.items():
            compared.close("output", f"grad_{name}{k}", leaf.grad, floor=1e-5)
        k += 1


def _rounded_offsets(offset: Tensor, source_size: tuple[int, int]) -> Tensor:
    """Offsets (B, 18, H, W) in float64 that lead to the positions at which the stored case was read.

    The case was computed in float32 by a deformable convolution without scales: it was given offsets from the regular kernel grid of the
    output, and added the grid to them. What this rounds off a position changes a gradient by more than half of the tolerance.
    """
    height, width = offset.shape[2:]
    steps = torch.arange(-1.0, 2.0, dtype=torch.float64)
    rows = torch.arange(height)[:, None] + steps.repeat_interleave(3)[:, None, None]  # (9, H, 1)
    columns = torch.arange(width) + steps.repeat(3)[:, None, None]  # (9, 1, W)
    grid = torch.stack([rows.expand(9, height, width), columns.expand(9, height, width)], dim=1).flatten(0, 1)  # (18, H, W)
    scales = torch.tensor([source_size[0] / height, source_size[1] / width], dtype=torch.float64).repeat(9)[:, None, None]
    from_grid = (grid * scales - grid).float() + offset
    return (grid.float() + from_grid).double() - grid * scales


def _check_coordinates(compared: ComparedArrays) -> None:
    for name, landmarks in SETS_OF_LANDMARKS.items():
        _check_targets(compared, name)
        raw = compared.tensor(f"{name}.raw")
        offsets = landmarks.offsets(raw.unflatten(1, (-1, 4)).movedim((1, 2), (-2, -1)))  # (B, H, W, V + 1, 2)
        compared.close("weights", f"{name}.landmarks", offsets[..., :-1, :].flatten(3).movedim(3, 1))
        compared.close("weights", f"{name}.box", landmarks.boxes(offsets[..., :-1, :]).movedim(3, 1))
        free = compared.tensor("bbox.free") if landmarks.num_free_points else raw[:, :0]
        relative = kernel_offsets(raw, free, landmarks, 0.1)
        compared.close("weights", f"{name}.dcn_offset", relative, floor=1e-6)
        steps = torch.tensor([-1.0, 0.0, 1.0])
        grid = torch.cartesian_prod(steps, steps).reshape(1, 18, 1, 1)
        compared.close("weights", f"{name}.points9", relative + grid, floor=1e-6)
    _check_levels(compared)


def _check_targets(compared: ComparedArrays, name: str) -> None:
    """Landmarks to cross coordinates in pixels; rows that are not positive stay empty."""
    landmarks = compared.tensor(f"{name}.gt").unflatten(1, (-1, 2))
    points = compared.tensor(f"{name}.anchor")[:, :2]
    offsets = point_offsets(points, landmarks[:, :-1], landmarks[:, -1].repeat(1, 2))
    positive = (compared.tensor(f"{name}.weight") > 0)[:, None]
    compared.close("weights", f"{name}.reg", cross_coordinates(offsets, 0.0).flatten(1) * positive)
    side = cross_coordinates(torch.where(offsets >= 0, 1.0, -1.0), 0.0).flatten(1) > 0
    stored = compared.tensor(f"{name}.side").bool()
    compared.recorder.equal(f"{name}.side", (side & positive).long(), (stored & positive).long())


def _check_levels(compared: ComparedArrays) -> None:
    """The offsets that every level hands to every source level."""
    own: dict[int, Tensor] = {}
    while f"pyr.offset_l{len(own)}" in compared:
        own[len(own)] = compared.tensor(f"pyr.offset_l{len(own)}")
    sizes = [(offset.shape[-2], offset.shape[-1]) for offset in own.values()]
    for call in compared.case.meta["scalars"]["pyramid_calls"]:
        level, order = call["level"], call["order"]
        source, scale = level_scales(level, sizes, STRIDES, "official")[order]
        assert source == call["source_level"]
        assert scale.kernel == pytest.approx((call["scale_h"], call["scale_w"]), rel=1e-6)
        assert scale.offset == pytest.approx((call["factor_h"], call["factor_w"]), rel=1e-6)
        factors = torch.tensor(scale.offset).repeat(own[level].shape[1] // 2)[:, None, None]
        compared.close("weights", f"pyr.used_l{level}_{order}", own[level] * factors, floor=1e-6)
