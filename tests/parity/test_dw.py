"""DW: whole detectors, weighting, losses and pieces against strongwolf/DW."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.testing import assert_close

from detkit.assigners import AssignContext, Pairs, SoftAssignment
from detkit.assigners.candidates import CenterPrior, points_inside
from detkit.assigners.dw import official_negative_probability, official_positive_weight
from detkit.checkpoint import ConversionReport, convert_state_dict
from detkit.checkpoint.key_maps import KEY_MAPS
from detkit.config import get_cfg
from detkit.dense.criteria import WeightedCriterion
from detkit.geometry import Grid, PointBoxCoder, Priors, elementwise_iou, square_anchors
from detkit.losses import giou_loss
from detkit.structures import DenseOutputs, GroundTruth, Predictions
from dw import DW, refine_distances

from .cases import GoldenCase, find_cases, procedural_state_dict
from .compare import Recorder
from .models import bare_detector, image_inputs, run_network, run_network_with_gradient, train_mode
from .sources import CONFIGS, set_network

RecorderOf = Callable[[GoldenCase], Recorder]
CPU = torch.device("cpu")
STRIDES = (8, 16, 32, 64, 128)
_CASES = find_cases(sets=("dw",))


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.id)
def test_case(case: GoldenCase, recorder_of: RecorderOf) -> None:
    checks = {
        "detector": (_check_detector,),
        "loss": (_check_loss,),
        "weighting": (_check_weighting,),
        "pieces": (_check_center_prior, _check_refinement),
    }
    for check in checks[case.kind]:
        check(case, recorder_of(case))


def _check_detector(case: GoldenCase, recorder: Recorder) -> None:
    model, cfg, report = _detector(case)
    assert report.complete, str(report)
    assert len(report.loaded) + len(report.ignored) == len(case.state_shapes)
    assert all(key.endswith("num_batches_tracked") for key in report.ignored)
    inputs = image_inputs(case, cfg)
    _, pyramid, outputs, sizes = run_network(model.eval(), inputs)
    _compare_maps(recorder, case, model, pyramid, outputs)
    if "det_boxes0" in case.arrays:
        _compare_detections(recorder, case, model, outputs, sizes)

    _, _, outputs, _ = run_network_with_gradient(train_mode(model), inputs)
    gt = _ground_truth(case, len(sizes))
    _compare_weighting(recorder, case, model, outputs, gt)
    losses = model.losses(outputs, gt, sizes)
    _compare_losses(recorder, case, losses)
    _compare_images_alone(recorder, case, model, outputs, gt)
    sum(losses.values()).backward()
    key_map = next(key_map for key_map in KEY_MAPS if key_map.name == report.source)
    parameters = dict(model.named_parameters())
    stored = case.meta["scalars"]["grad_norms"]
    norms = torch.stack([parameters[key_map.rename(name)].grad.norm() for name in stored])
    recorder.close("gradients", "gradient norms", norms, torch.tensor(list(stored.values())))


def _check_loss(case: GoldenCase, recorder: Recorder) -> None:
    hyper = case.hyperparameters
    cfg = _cfg(case)
    cfg.MODEL.DW.NUM_CLASSES = hyper["num_classes"]
    model = bare_detector(cfg)
    model.box_coder = PointBoxCoder("linear")  # what is given stands behind the ReLU
    levels = range(len(hyper["strides"]))
    given = {name: [case.tensor(f"{name}_l{level}").requires_grad_() for level in levels] for name in ("cls", "ltrb", "ctr")}
    in_strides = [x / stride for x, stride in zip(given["ltrb"], hyper["strides"], strict=True)]
    outputs = DenseOutputs(given["cls"], in_strides, given["ctr"])
    gt = _ground_truth(case, len(given["cls"][0]))
    _compare_weighting(recorder, case, model, outputs, gt)
    losses = model.losses(outputs, gt, [tuple(hyper["hw"])] * len(given["cls"][0]))
    _compare_losses(recorder, case, losses)
    _compare_images_alone(recorder, case, model, outputs, gt)
    sum(losses.values()).backward()
    for name, maps in given.items():
        norms = torch.stack([x.grad.norm() for x in maps])
        recorder.close("gradients", f"grad_norm_{name}", norms, torch.tensor(case.meta["scalars"][f"grad_norm_{name}"]))
        for level in levels:
            if f"grad_{name}_l{level}" in case.arrays:
                recorder.close("gradients", f"grad_{name}_l{level}", maps[level].grad, case.tensor(f"grad_{name}_l{level}"))


def _check_weighting(case: GoldenCase, recorder: Recorder) -> None:
    for part in case.meta["scalars"]["cases"]:
        _compare_weighting_part(recorder, case, part["case"])


def _check_center_prior(case: GoldenCase, recorder: Recorder) -> None:
    for k in (k for k in range(len(case.arrays)) if f"boxes{k}" in case.arrays):
        boxes, classes = case.tensor(f"boxes{k}"), case.tensor(f"labels{k}")
        gt = GroundTruth(boxes[None], classes[None], torch.ones(1, len(boxes), dtype=torch.bool))
        grid = Grid(tuple(tuple(size) for size in case.tensor(f"shapes{k}").tolist()), STRIDES, 0.5, CPU)
        priors = Priors(grid, square_anchors(STRIDES))
        pairs = points_inside(AssignContext(gt, priors))
        bits = np.unpackbits(case.arrays[f"inside{k}"])[: grid.num_points * len(boxes)]
        inside = torch.from_numpy(bits).bool().reshape(grid.num_points, len(boxes))
        recorder.equal(f"inside{k}", _dense(torch.ones_like(pairs.prior_index), pairs, inside.shape).bool(), inside)
        prior = CenterPrior(len(case.arrays[f"mean{k}"]), sigma=1.11)
        soft = prior(pairs, gt, priors)
        prior.mean.copy_(case.tensor(f"mean{k}")), prior.sigma.copy_(case.tensor(f"sigma{k}"))
        ours = {"prior_soft": soft, "prior_hard": (soft > 0.3).float(), "prior_class": prior(pairs, gt, priors)}
        for name, value in ours.items():
            recorder.close("weights", f"{name}{k}", _dense(value, pairs, inside.shape), case.tensor(f"{name}{k}"))


def _check_refinement(case: GoldenCase, recorder: Recorder) -> None:
    for k, stride in enumerate(case.hyperparameters["strides_refine"]):
        raw, offsets = case.tensor(f"ref_conv{k}").requires_grad_(), case.tensor(f"ref_off{k}").requires_grad_()
        coarse = (raw * case.tensor(f"ref_scale{k}")).relu()
        refined = refine_distances(coarse, offsets).relu() * stride
        stored = case.tensor(f"ref_out{k}")
        recorder.close("weights", f"ref_out{k}", refined / stride, stored / stride)
        refined.backward(case.tensor(f"ref_grad{k}"))
        for name, leaf in (("gconv", raw), ("goff", offsets)):
            recorder.close("gradients", f"ref_{name}{k}", leaf.grad, case.tensor(f"ref_{name}{k}"))


def _cfg(case: GoldenCase) -> CfgNode:
    """The shipped config with what the case states."""
    hyper = case.hyperparameters
    head = hyper.get("model", {}).get("bbox_head", {})
    name = "dw_refine_R_50_FPN_1x" if "bbox_head.reg_offset.weight" in case.state_shapes else "dw_R_50_FPN_1x"
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / "dw" / f"{name}.yaml"))
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", "cpu"
    node = cfg.MODEL.ASSIGNERS.DW
    node.PRIOR = "soft" if hyper.get("soft_prior", True) else "hard"
    node.PRIOR_SIGMA = hyper["center_prior_sigma"]
    node.MU, node.MU_NORMALIZER = float(hyper.get("mu_numerator", 5)), float(hyper.get("mu_denominator", 3))
    node.GAMMA1, node.GAMMA2 = float(hyper.get("gamma1", 2)), float(hyper.get("gamma2", 2))
    node.FACTOR = hyper.get("pos_loss_factor", 0.25)
    if case.state_shapes:
        neck = hyper["model"]["neck"]
        cfg.MODEL.FPN.TOP_BLOCK = {"on_input": "c5", "on_output": "p5"}[neck["add_extra_convs"]]
        cfg.MODEL.FPN.RELU_BEFORE_P7 = neck.get("relu_before_extra_convs", False)
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(hyper["mean_rgb"]), list(hyper["std_rgb"])
        set_network(cfg, case.state_shapes)
    cfg.MODEL.DW.NUM_CLASSES = head.get("num_classes", 80)
    cfg.MODEL.DW.HEAD.NUM_CONVS = head.get("stacked_convs", 4)
    return cfg


def _detector(case: GoldenCase) -> tuple[DW, CfgNode, ConversionReport]:
    """The whole detector with its official weights, converted and loaded; its config; what was converted."""
    cfg = _cfg(case)
    model = build_model(cfg)
    weights = procedural_state_dict(case)
    for name in ("mean", "sigma"):  # the code computes these itself
        weights[f"bbox_head.center_prior.{name}"].fill_(case.hyperparameters[f"center_prior_{name}"])
    converted, report = convert_state_dict(weights, model)
    model.load_state_dict(converted, strict=False)
    return model, cfg, report


def _ground_truth(case: GoldenCase, num_images: int) -> GroundTruth:
    instances = []
    for i in range(num_images):
        instance = Instances((1, 1))
        instance.gt_boxes = Boxes(case.tensor(f"gt_boxes{i}").reshape(-1, 4))
        instance.gt_classes = case.tensor(f"gt_labels{i}")
        instances.append(instance)
    return GroundTruth.from_instances(instances)


def _at(level_map: Tensor, points: Tensor) -> Tensor:
    """(B, N, C) of a map (B, C, H, W) at flat positions."""
    return level_map.flatten(2)[..., points].transpose(1, 2)


def _compare_maps(recorder: Recorder, case: GoldenCase, model: DW, pyramid: list[Tensor], outputs: DenseOutputs) -> None:
    for level, stride in enumerate(STRIDES):
        if f"points_l{level}" not in case.arrays:
            continue
        points = case.tensor(f"points_l{level}")
        maps = {
            "cls_logits": outputs.logits[level],
            "ltrb": model.box_coder.distances(outputs.boxes[level]) * stride,
            "centerness": outputs.quality[level],
        }
        for name, value in maps.items():
            recorder.close("raw", f"{name}_l{level}", _at(value, points), case.tensor(f"{name}_l{level}"))
        stored = case.tensor(f"fpn_l{level}")
        feature = _at(pyramid[level], points[: stored.shape[1]])[..., : stored.shape[2]]
        recorder.close("raw", f"fpn_l{level}", feature, stored)


def _compare_detections(recorder: Recorder, case: GoldenCase, model: DW, outputs: DenseOutputs, sizes: list[tuple[int, int]]) -> None:
    scale = torch.tensor(case.hyperparameters["scale_factor"])
    for i, size in enumerate(sizes):
        model.postprocessor.score_thresh = case.meta["scalars"][f"score_thr{i}"]
        image = _image(outputs, i)
        scores = [a.sigmoid() * b.sigmoid() for a, b in zip(image.logits, image.quality, strict=True)]
        above = sum(int((score > model.postprocessor.score_thresh).sum()) for score in scores)
        assert above == case.meta["scalars"][f"n_above_thr{i}"]
        (found,) = model.detect(image, [size])
        expected = case.tensor(f"det_boxes{i}")
        recorder.same_detections(
            f"image {i}",
            (found.pred_boxes.tensor / scale, found.scores, found.pred_classes),
            (expected[:, :4], expected[:, 4], case.tensor(f"det_labels{i}")),
        )


def _image(outputs: DenseOutputs, i: int) -> DenseOutputs:
    return DenseOutputs(*([x[i : i + 1] for x in maps] for maps in (outputs.logits, outputs.boxes, outputs.quality)))


def _dense(values: Tensor, pairs: Pairs, shape: torch.Size, empty: float = 0.0) -> Tensor:
    """Values of the pairs of one image as a matrix (priors, objects)."""
    matrix = torch.full(shape, empty, dtype=values.dtype)
    matrix[pairs.prior_index, pairs.gt_index] = values
    return matrix


def _predict(model: DW, outputs: DenseOutputs, gt: GroundTruth) -> tuple[Predictions, SoftAssignment, Priors]:
    predictions, priors = model.pipeline.decode(outputs)
    return predictions, model.pipeline.assign(priors, gt, predictions, []), priors


@torch.no_grad()
def _compare_weighting(recorder: Recorder, case: GoldenCase, model: DW, outputs: DenseOutputs, gt: GroundTruth) -> None:
    """Candidate bags, prior, scores and weights of all images, and the normalizers."""
    predictions, assignment, priors = _predict(model, outputs, gt)
    values, pairs = assignment.values, assignment.pairs
    prior = model.assigner.center_prior(assignment.pairs, gt, priors)
    ours = {
        "center_prior": prior if model.assigner.prior == "soft" else (prior > model.assigner.prior_threshold).float(),
        "iou": elementwise_iou(values.boxes, values.gt_boxes),
        "p_loc": (-5 * giou_loss(values.boxes, values.gt_boxes)).exp(),
        "p_cls": values.score,
        "w_pos": assignment.positive_weight / 0.25,
        "p_neg": official_negative_probability(elementwise_iou(values.boxes, values.gt_boxes), pairs.gt_index, gt.valid.numel()),
    }
    assert_close(5 * assignment.positive_weight, assignment.box_weight)
    num_priors, num_gts = predictions.logits.shape[1], gt.valid.shape[1]
    floor = 1e-6 if case.state_shapes else 1e-9  # probabilities at the end of a network in float32
    scores = predictions.logits.sigmoid() * predictions.quality.sigmoid()[..., None]
    negative = (scores**2).flatten()
    where = assignment.pairs.score_index(gt, scores.shape[-1])[assignment.counts_negative]
    negative[where] = assignment.negative_weight[assignment.counts_negative]
    negative = negative.view_as(scores)
    for i in (i for i in range(len(scores)) if f"anchor{i}" in case.arrays):
        mine = (assignment.pairs.prior_index // num_priors == i).nonzero().squeeze(1)
        index = (assignment.pairs.prior_index[mine] % num_priors) * num_gts + assignment.pairs.gt_index[mine] % num_gts
        stored = case.tensor(f"anchor{i}") * num_gts + case.tensor(f"gt{i}")
        order, stored_order = index.argsort(), stored.argsort()
        recorder.equal(f"pairs of image {i}", index[order], stored[stored_order])
        for name, value in ours.items():
            recorder.close("weights", f"{name}{i}", value[mine][order], case.tensor(f"{name}{i}")[stored_order], floor=floor)
        recorder.close("weights", f"w_neg{i}", negative[i][:, case.tensor(f"neg_classes{i}")], case.tensor(f"w_neg{i}"), floor=floor)
    scalars = case.meta["scalars"]
    factors = assignment.normalizers[:2].clamp(min=1)
    recorder.close("losses", "normalizers", factors, torch.tensor([scalars["pos_avg_factor"], scalars["neg_avg_factor"]]))


def _compare_losses(recorder: Recorder, case: GoldenCase, losses: dict[str, Tensor]) -> None:
    stored = case.meta["scalars"]["losses"]
    names = {"loss_cls_pos": "loss_cls_pos", "loss_cls_neg": "loss_cls_neg", "loss_box": "loss_loc"}
    assert set(losses) == set(names) and set(stored) == set(names.values())
    for ours, theirs in names.items():
        recorder.close("losses", theirs, losses[ours], torch.tensor(stored[theirs]))


@torch.no_grad()
def _compare_images_alone(recorder: Recorder, case: GoldenCase, model: DW, outputs: DenseOutputs, gt: GroundTruth) -> None:
    """The sums that each image adds, before they are divided."""
    for i, stored in enumerate(case.meta["scalars"].get("per_image", [])):
        objects = GroundTruth(gt.boxes[i : i + 1], gt.classes[i : i + 1], gt.valid[i : i + 1])
        predictions, assignment, priors = _predict(model, _image(outputs, i), objects)
        losses = model.criterion(predictions, assignment, objects, priors)
        positive, negative = assignment.normalizers[:2].clamp(min=1)
        sums = [
            losses["loss_cls_pos"] * positive,
            losses["loss_box"] * positive,
            losses["loss_cls_neg"] * negative,
            assignment.normalizers[1],
        ]
        names = ("cls_loss", "loc_loss", "neg_loss", "neg_avg_factor")
        recorder.close("losses", f"sums of image {i}", torch.stack(sums), torch.tensor([stored[name] for name in names]))


def _compare_weighting_part(recorder: Recorder, case: GoldenCase, k: int) -> None:
    """The pure weighting of one bag and its losses: scores and box losses are given, not boxes."""
    cls, ctr, box_loss = (case.tensor(f"{name}{k}").requires_grad_() for name in ("cls", "ctr", "reg_loss"))
    classes, inside = case.tensor(f"labels{k}"), case.tensor(f"inside{k}") > 0
    shape = inside.shape
    # the code weighs positives wherever the prior is not 0; in some bags that is also outside, where P_neg does not reach
    gt_index, prior_index = (inside | (case.tensor(f"prior{k}") != 0)).T.nonzero(as_tuple=True)
    pairs, within = Pairs(prior_index, gt_index), inside[prior_index, gt_index]
    gt = GroundTruth(torch.zeros(1, shape[1], 4), classes[None], torch.ones(1, shape[1], dtype=torch.bool))
    predictions = Predictions(cls.logit()[None], torch.zeros(1, shape[0], 4), ctr.logit().T)

    given = {name: case.tensor(f"{name}{k}")[prior_index, gt_index] for name in ("prior", "iou")}
    losses_of_pairs = box_loss[prior_index, gt_index]
    values = pairs.look_up(predictions, gt)
    positive = official_positive_weight(values.score.detach(), losses_of_pairs.detach(), given["prior"], gt_index, shape[1])
    negative, counts_negative = torch.ones_like(positive), torch.zeros_like(within)
    negative[within] = official_negative_probability(given["iou"][within], gt_index[within], shape[1])
    counts_negative[within] = pairs.select(within).last_of_score(gt, predictions.logits)
    assignment = SoftAssignment(
        pairs=pairs,
        values=values,
        positive_weight=0.25 * positive,
        negative_weight=negative * values.score**2,
        box_weight=0.25 * 5 * positive,
        normalizers=torch.ones(3),
        counts_negative=counts_negative,
    )

    recorder.close("weights", f"w_pos{k}", _dense(positive, pairs, shape), case.tensor(f"w_pos{k}"))
    recorder.close("weights", f"p_neg{k}", _dense(negative[within], pairs.select(within), shape, empty=-1.0), case.tensor(f"p_neg{k}"))
    weights = torch.ones_like(cls)
    weights[prior_index[counts_negative], classes[gt_index][counts_negative]] = negative[counts_negative]
    recorder.close("weights", f"w_neg{k}", weights * (cls * ctr) ** 2, case.tensor(f"w_neg{k}"))
    recorder.close("losses", f"neg_avg_factor{k}", ((1 - negative) * counts_negative).sum(), case.tensor(f"neg_avg_factor{k}"))

    criterion = WeightedCriterion(num_classes=cls.shape[1], box_loss=lambda pred, target: losses_of_pairs)
    losses = criterion(predictions, assignment, gt, Priors(Grid(((1, shape[0]),), (1,), 0.5, CPU), square_anchors([1])))
    for ours, theirs in (("loss_cls_pos", "cls_loss"), ("loss_box", "loc_loss"), ("loss_cls_neg", "neg_loss")):
        recorder.close("losses", f"{theirs}{k}", losses[ours], case.tensor(f"{theirs}{k}"))
    sum(losses.values()).backward()
    imperfect = box_loss > 0  # at a perfect box the code's cross entropy of exp(-5 * loss) = 1 has gradient 0
    for name, leaf, where in (("cls", cls, cls == cls), ("ctr", ctr, ctr == ctr), ("reg_loss", box_loss, imperfect)):
        recorder.close("gradients", f"grad_{name}{k}", leaf.grad[where], case.tensor(f"grad_{name}{k}")[where])
