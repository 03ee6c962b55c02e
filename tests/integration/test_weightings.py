"""Every assigner and weighting on every dense head, by config: builds, has positives, finite losses, and learns a batch by heart."""

import itertools

import pytest
import torch
from detectron2.modeling import build_model

from detkit.assigners import AssignContext
from detkit.structures import HardAssignment
from tests.toys.batch import average_precision, make_batch
from tests.toys.detectors import tiny_cfg

#: head -> method whose keys it stands below, and the keys that choose it
HEADS = {
    "FCOS": ("FCOS", ["BOX_CODER.NAME", "exp_stride"]),
    "ATSS": ("ATSS", []),
    "DW": ("DW", []),
    # boxes of 8 strides would begin outside these small maps, where there is nothing to refine them by
    "refining": ("DW", ["HEAD.NAME", "RefiningHead", "HEAD.BOX_BIAS", "1.0"]),
    "TOOD": ("DW", ["HEAD.NAME", "TOODHead", "HEAD.QUALITY", "none", "BOX_CODER.NAME", "linear"]),
}
ASSIGNERS = [
    "ATSSAssigner",
    "AutoAssignAssigner",
    "DWAssigner",
    "FCOSAssigner",
    "FoveaBoxAssigner",
    "GFLAssigner",
    "IoUAssigner",
    "MuSuAssigner",
    "OTAAssigner",
    "OneNetAssigner",
    "PAAAssigner",
    "POTOAssigner",
    "QualityATSSAssigner",
    "SimOTAAssigner",
    "TaskAlignedAssigner",
    "VFLAssigner",
]
FAST = [
    *(("DWAssigner", "DW"), ("TaskAlignedAssigner", "TOOD"), ("AutoAssignAssigner", "FCOS"), ("OTAAssigner", "ATSS")),
    ("POTOAssigner", "FCOS"),
]


def build(assigner, head, *options):
    method, keys = HEADS[head]
    cfg = tiny_cfg(method)
    cfg.MODEL[method].HEAD.NUM_CONVS = 2
    cfg.MODEL[method].LOSS.BOX = "giou"
    cfg.MODEL[method].ASSIGNER = assigner
    cfg.MODEL.ASSIGNERS.FOVEABOX.SIZES = [32, 64, 128]
    cfg.merge_from_list([f"MODEL.{method}.{key}" if i % 2 == 0 else key for i, key in enumerate(keys)])
    cfg.merge_from_list(list(options))
    torch.manual_seed(0)
    return build_model(cfg)


def count_positives(model, batch):
    """Pairs with a weight, or priors with an object, of a batch."""
    contexts = []

    def remember(module, inputs, result):
        contexts.append((inputs, result))

    handle = model.assigner.register_forward_hook(remember)
    model(batch)
    handle.remove()
    (inputs, result) = contexts[0]
    assert isinstance(inputs[0], AssignContext)
    chosen = result.gt_index >= 0 if isinstance(result, HardAssignment) else result.positive_weight > 0
    return int(chosen.sum())


def learn_by_heart(model, batch, steps):
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
        losses = model(batch)
        assert all(loss.isfinite() for loss in losses.values()), losses
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()


def check(assigner, head, *options, steps=250):
    model, batch = build(assigner, head, *options), make_batch()
    assert count_positives(model, batch) >= len(batch)
    learn_by_heart(model, batch, steps)
    assert average_precision(model, batch) > 50


@pytest.mark.parametrize(("assigner", "head"), FAST)
def test_some_weightings_on_some_heads(assigner, head):
    check(assigner, head, steps=200)


@pytest.mark.slow
@pytest.mark.parametrize(("assigner", "head"), [pair for pair in itertools.product(ASSIGNERS, HEADS) if pair not in FAST])
def test_any_weighting_on_any_head(assigner, head):
    check(assigner, head)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["MODEL.ASSIGNERS.DW.FORMULA", "paper"],
        ["MODEL.ASSIGNERS.DW.BAG", "threshold", "MODEL.ASSIGNERS.DW.RADIUS", "1.7"],
        ["MODEL.ASSIGNERS.DW.BAG", "topk", "MODEL.ASSIGNERS.DW.TOPK", "9"],
        ["MODEL.ASSIGNERS.DW.PRIOR", "hard"],
        *(["MODEL.ASSIGNERS.DW.NEGATIVE", part] for part in ("probability", "importance", "none", "one_minus_positive")),
    ],
)
def test_variants_of_dw(options):
    check("DWAssigner", "DW", *options)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["detached", "on_loss"])
def test_variants_of_autoassign(weights):
    check("AutoAssignAssigner", "DW", "MODEL.ASSIGNERS.AUTOASSIGN.WEIGHTS", weights)


@pytest.mark.parametrize("assigner", ASSIGNERS)
@pytest.mark.parametrize("head", HEADS)
def test_builds_and_has_positives(assigner, head):
    model, batch = build(assigner, head), make_batch()
    assert count_positives(model, batch) >= len(batch)
    losses = model(batch)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_hard_labels_may_have_the_loss_of_weights():
    model, batch = build("ATSSAssigner", "DW", "MODEL.DW.LOSS.CRITERION", "weighted"), make_batch()
    assert set(model(batch)) == {"loss_cls_pos", "loss_cls_neg", "loss_box"}


def test_a_criterion_that_cannot_use_weights_is_refused():
    with pytest.raises(ValueError, match="set it to 'auto'"):
        build("DWAssigner", "DW", "MODEL.DW.LOSS.CRITERION", "labels")


def test_a_box_loss_without_weights_is_refused():
    with pytest.raises(ValueError, match=r"MODEL\.DW\.LOSS\.BOX is 'smooth_l1'\. It has to be one of 'iou', 'giou'"):
        build("DWAssigner", "DW", "MODEL.DW.LOSS.BOX", "smooth_l1")
