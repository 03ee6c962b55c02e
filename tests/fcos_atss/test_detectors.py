import copy

import pytest
import torch
from detectron2.modeling import build_model
from torch.testing import assert_close

from detkit.assigners import ASSIGNER_REGISTRY, Assigner
from detkit.geometry import boxes_to_ltrb, centerness_of
from detkit.structures import HardAssignment
from fcos_atss import ATSS, FCOS
from tests.toys.detectors import random_inputs, tiny_cfg

METHODS = ["FCOS", "ATSS"]


def build(cfg, seed=0):
    torch.manual_seed(seed)
    return build_model(cfg)


@pytest.mark.parametrize("method", METHODS)
def test_training_step_reaches_every_parameter(method):
    model = build(tiny_cfg(method))
    assert type(model) is {"FCOS": FCOS, "ATSS": ATSS}[method]
    losses = model(random_inputs())
    assert set(losses) == {"loss_cls", "loss_box", "loss_quality"}
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


@pytest.mark.parametrize("method", METHODS)
def test_one_to_one_matching_trains_a_dense_head(method):
    """Its costs are relative to the size of each image, which the detector has to hand over."""
    cfg = tiny_cfg(method)
    cfg.MODEL[method].ASSIGNER = "HungarianAssigner"
    model, inputs = build(cfg), random_inputs(num_boxes=3)
    assigned = []
    model.assigner.register_forward_hook(lambda _module, given, result: assigned.append((given[0].image_sizes, result.gt_index)))
    losses = model(inputs)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    ((image_sizes, gt_index),) = assigned
    assert image_sizes.tolist() == [[96, 128]] * 2
    assert (gt_index >= 0).sum(1).tolist() == [3, 3]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("empty", [[0], [0, 1]])
def test_images_without_objects_train(method, empty):
    inputs = random_inputs()
    for i in empty:
        inputs[i]["instances"] = inputs[i]["instances"][:0]
    losses = build(tiny_cfg(method))(inputs)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("method", METHODS)
def test_inference_gives_detections_inside_the_output_size(method):
    cfg = tiny_cfg(method)
    cfg.MODEL[method].TEST.SCORE_THRESH = 0.001
    model = build(cfg).eval()
    inputs = random_inputs(1)
    inputs[0] |= {"height": 48, "width": 64}
    with torch.no_grad():
        result = model(inputs)[0]["instances"]
    assert result.image_size == (48, 64) and 0 < len(result) <= 100
    boxes = result.pred_boxes.tensor
    assert (boxes >= 0).all() and (boxes[:, 2] <= 64).all() and (boxes[:, 3] <= 48).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_gives_what_its_images_give_alone(method):
    cfg = tiny_cfg(method)
    cfg.MODEL[method].TEST.SCORE_THRESH = 0.001
    model = build(cfg).eval()
    inputs = random_inputs(2)
    with torch.no_grad():
        together = model(inputs)
        alone = [model([x])[0] for x in inputs]
    for a, b in zip(together, alone, strict=True):
        assert_close(a["instances"].scores, b["instances"].scores)
        assert_close(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
        assert_close(a["instances"].pred_classes, b["instances"].pred_classes)


def test_legacy_convention_ends_at_the_border_of_the_model():
    """With inclusive corners inside, an object of w x h pixels still comes in and goes out as w x h."""
    cfg = tiny_cfg("ATSS")
    cfg.MODEL.ATSS.PLUS_ONE, cfg.MODEL.ATSS.TEST.SCORE_THRESH = True, 0.001
    model = build(cfg)
    inputs = random_inputs(1)
    gt = model.ground_truth([inputs[0]["instances"]])
    assert_close(gt.boxes[0, :, 2:] + 1, inputs[0]["instances"].gt_boxes.tensor[:, 2:])
    model.eval()
    with torch.no_grad():
        images = model.preprocess_image(inputs)
        outputs = model.head(list(model.backbone(images.tensor).values()))
        inside, outside = model.detect(outputs, images.image_sizes)[0], model.forward_inference(images, [], outputs)[0]
    assert_close(inside.pred_boxes.tensor + torch.tensor([0.0, 0, 1, 1]), outside.pred_boxes.tensor)


def test_padding_is_ignored_by_choice():
    """Cells that exist for the larger image alone are background for the smaller one, or nothing at all."""
    inputs = random_inputs(1, size=(96, 128)) + random_inputs(1, size=(40, 40), num_boxes=1)
    losses = {}
    for ignore in (False, True):
        cfg = tiny_cfg("ATSS")
        cfg.MODEL.ATSS.IGNORE_PADDING = ignore
        model = build(cfg)
        losses[ignore] = model(inputs)
        gt = model.ground_truth([x["instances"] for x in inputs])
        sizes = ((12, 16), (6, 8), (3, 4))
        assignment = model.pipeline.assign(model.prior_generator(sizes), gt, None, [(96, 128), (40, 40)])
        if ignore:
            assert assignment.ignore[0].sum() == 0
            assert (~assignment.ignore[1]).sum() == 8 * 8 + 4 * 4 + 2 * 2
    assert losses[True]["loss_cls"] < losses[False]["loss_cls"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("assigner", ["FCOSAssigner", "ATSSAssigner", "IoUAssigner"])
@pytest.mark.parametrize("coder", ["exp", "relu", "exp_stride", "delta"])
def test_any_assigner_with_any_coder(method, assigner, coder):
    cfg = tiny_cfg(method)
    cfg.MODEL[method].ASSIGNER = assigner
    cfg.MODEL[method].BOX_CODER.NAME = coder
    losses = build(cfg)(random_inputs())
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()) and losses["loss_box"] > 0


def test_several_anchors_per_location():
    cfg = tiny_cfg("ATSS")
    cfg.MODEL.ATSS.ANCHORS.SCALES = [4.0, 8.0]
    cfg.MODEL.ATSS.ANCHORS.RATIOS = [0.5, 1.0, 2.0]
    model = build(cfg)
    assert model.head.cls_score.out_channels == 6 * 3
    assert sum(model(random_inputs()).values()).isfinite()


def test_score_with_the_centerness_of_predicted_boxes():
    cfg = tiny_cfg("FCOS")
    node = cfg.MODEL.FCOS
    node.HEAD.QUALITY, node.TEST.SCORE_THRESH, node.TEST.NMS_THRESH = "none", 0.0, 1.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 10000
    plain = build(cfg).eval()
    node.TEST.QUALITY_FROM = "box"
    weighted = build(cfg).eval()
    (inputs,) = random_inputs(1, size=(64, 64))
    outputs = plain.predict(plain.preprocess_image([inputs]))
    predictions, priors = plain.pipeline.decode(outputs)
    centerness = centerness_of(boxes_to_ltrb(predictions.boxes, priors.points))[..., None]
    found = [model.detect(outputs, [(64, 64)])[0].scores.sort().values for model in (plain, weighted)]
    probabilities = predictions.logits.sigmoid()
    assert_close(found[0], probabilities.flatten().sort().values)
    assert_close(found[1], (probabilities * centerness).sqrt().flatten().sort().values)


def test_unknown_choice_is_named():
    cfg = tiny_cfg("FCOS")
    cfg.MODEL.FCOS.LOSS.NORMALIZER = "batch"
    with pytest.raises(ValueError, match="MODEL.FCOS.LOSS.NORMALIZER is 'batch'. It has to be one of 'positives'"):
        build(cfg)


def test_unknown_assigner_names_the_nearest():
    cfg = tiny_cfg()
    cfg.MODEL.FCOS.ASSIGNER = "ATTSAssigner"
    with pytest.raises(ValueError, match="MODEL.FCOS.ASSIGNER is 'ATTSAssigner'.*did you mean 'ATSSAssigner'"):
        build(cfg)


def test_missing_feature_level_is_named():
    cfg = tiny_cfg()
    cfg.MODEL.FCOS.IN_FEATURES = ["p3", "p9"]
    with pytest.raises(ValueError, match=r"MODEL\.FCOS\.IN_FEATURES is \['p3', 'p9'\]\. It has to be one of 'p3', 'p4', 'p5'"):
        build(cfg)


def test_own_assigner_by_name_sees_predictions():
    seen = {}

    @ASSIGNER_REGISTRY.register()
    class PeekingAssigner(Assigner):
        needs_predictions = True

        def forward(self, context):
            seen["predictions"] = context.predictions
            return HardAssignment(torch.full(context.predictions.logits.shape[:2], -1))

    cfg = tiny_cfg()
    cfg.MODEL.FCOS.ASSIGNER = "PeekingAssigner"
    assert build(cfg)(random_inputs())["loss_box"] == 0
    assert seen["predictions"].boxes.shape[-1] == 4


def test_classes_take_real_objects():
    """What a notebook or a LazyConfig does: no cfg anywhere."""
    model = build(tiny_cfg("ATSS"))
    parts = {
        name: copy.deepcopy(getattr(model, name))
        for name in ("backbone", "head", "head_in_features", "prior_generator", "box_coder", "assigner", "criterion", "postprocessor")
    }
    again = ATSS(**parts, pixel_mean=(128.0,) * 3, pixel_std=(64.0,) * 3)
    inputs = random_inputs()
    for name, loss in model(inputs).items():
        assert_close(again(inputs)[name], loss)


def test_example_of_the_docs_runs():
    import re
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs" / "add-an-assigner.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    exec(compile(code, "add-an-assigner.md", "exec"), {"__name__": "docs"})
    cfg = tiny_cfg()
    cfg.MODEL.FCOS.ASSIGNER = "MiddleAssigner"
    assert build(cfg)(random_inputs())["loss_box"] > 0
