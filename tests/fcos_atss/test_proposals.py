"""FCOS as a proposal generator: it is FCOS for one class, and any R-CNN of Detectron2 takes its proposals."""

import pytest
import torch
from detectron2.modeling import build_model, build_proposal_generator
from detectron2.structures import BitMasks, ImageList
from detectron2.utils.events import EventStorage
from torch.testing import assert_close

from detkit.config import ConfigError
from detkit.engine.evaluate import evaluate
from detkit.structures import GroundTruth
from fcos_atss import FCOSRPN
from tests.toys.datasets import make_toy_data, register_toy_data
from tests.toys.detectors import LEVELS, random_inputs, tiny_cfg

SIZE = (96, 128)
LOSSES = {"loss_fcos_rpn_cls", "loss_fcos_rpn_box", "loss_fcos_rpn_quality"}


@pytest.fixture(autouse=True)
def storage():
    """Where Detectron2's ROI heads count."""
    with EventStorage():
        yield


def rpn_cfg(architecture="GeneralizedRCNN", levels=LEVELS, roi_levels=LEVELS):
    """An R-CNN on the tiny pyramid with FCOS's proposals and narrow heads."""
    cfg = tiny_cfg()
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "FCOSRPN"
    cfg.MODEL.RPN.IN_FEATURES = list(levels)
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 50
    cfg.MODEL.FCOS_RPN.HEAD.CHANNELS, cfg.MODEL.FCOS_RPN.HEAD.NUM_CONVS = 32, 1
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = list(roi_levels)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 32
    cfg.MODEL.ROI_BOX_HEAD.NAME, cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = "FastRCNNConvFCHead", 1, 16
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
    cfg.MODEL.ROI_MASK_HEAD.NAME, cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = "MaskRCNNConvUpsampleHead", 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM, cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 8, 4
    return cfg


def on_mobilenet(cfg, bottom_up, top_block):
    """The config on an FPN with other levels."""
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.FPN.BOTTOM_UP = "build_fpn_backbone", "build_torchvision_backbone"
    cfg.MODEL.BACKBONE.ARCH, cfg.MODEL.BACKBONE.NORM, cfg.MODEL.BACKBONE.FREEZE_AT = "mobilenet_v3_small", "BN", 0
    cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.TOP_BLOCK = bottom_up, 32, top_block
    return cfg


def inputs_with_masks():
    inputs = random_inputs(size=SIZE)
    for item in inputs:
        masks = torch.zeros(len(item["instances"]), *SIZE, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, item["instances"].gt_boxes.tensor.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = True
        item["instances"].gt_masks = BitMasks(masks)
    return inputs


def build_generator(cfg, seed=0):
    torch.manual_seed(seed)
    model = build_model(cfg)
    assert type(model.proposal_generator) is FCOSRPN
    return model, model.proposal_generator


P2_TO_P6 = (["res2", "res3", "res4", "res5"], "pool", ["p2", "p3", "p4", "p5", "p6"], ["p2", "p3", "p4", "p5"])
P3_TO_P7 = (["res3", "res4", "res5"], "p5", ["p3", "p4", "p5", "p6", "p7"], ["p3", "p4", "p5"])


@pytest.mark.parametrize("kind", ["faster", "mask", "cascade"])
@pytest.mark.parametrize("pyramid", [P2_TO_P6, P3_TO_P7], ids=["P2-P6", "P3-P7"])
def test_any_rcnn_trains_and_infers(kind, pyramid):
    bottom_up, top_block, levels, roi_levels = pyramid
    cfg = on_mobilenet(rpn_cfg(levels=levels, roi_levels=roi_levels), bottom_up, top_block)
    cfg.MODEL.MASK_ON = kind == "mask"
    if kind == "cascade":
        cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = "CascadeROIHeads", True
    model, generator = build_generator(cfg)
    assert generator.assigner.upper_bounds[:-1] == [8 * stride for stride in generator.prior_generator.strides[:-1]]
    inputs = inputs_with_masks()
    losses = model(inputs)
    assert LOSSES < set(losses) and (kind == "mask") == ("loss_mask" in losses)
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    with torch.no_grad():
        found = model.eval()([{key: item[key] for key in ("image", "height", "width")} for item in inputs])
    assert all(result["instances"].image_size == SIZE for result in found)


def test_proposals_alone_train_and_come_in_the_output_size():
    model, _ = build_generator(rpn_cfg("ProposalNetwork"))
    assert set(model(random_inputs())) == LOSSES
    item = random_inputs(1)[0] | {"height": 48, "width": 64}
    with torch.no_grad():
        proposals = model.eval()([item])[0]["proposals"]
    assert proposals.image_size == (48, 64) and 0 < len(proposals) <= 50
    assert (proposals.proposal_boxes.tensor <= torch.tensor([64, 48, 64, 48])).all()
    assert (proposals.objectness_logits.diff() <= 0).all()


@pytest.fixture
def twins():
    """FCOS for one class, a generator with its weights, a pyramid and the objects of a batch."""
    torch.manual_seed(0)
    cfg = rpn_cfg()
    for node in (cfg.MODEL.FCOS, cfg.MODEL.FCOS_RPN):
        node.BOX_CODER.NAME, node.HEAD.PRIOR_PROB, node.HEAD.BOX_BIAS = "relu", 0.5, 3.0
    cfg.MODEL.FCOS.NUM_CLASSES = 1
    cfg.MODEL.FCOS.TEST.SCORE_THRESH, cfg.MODEL.FCOS.TEST.NMS_THRESH = 0.0, 0.7
    cfg.TEST.DETECTIONS_PER_IMAGE = 50
    cfg.MODEL.META_ARCHITECTURE = "FCOS"
    fcos = build_model(cfg)
    generator = build_proposal_generator(cfg, fcos.backbone.output_shape())
    generator.head.load_state_dict(fcos.head.state_dict())
    inputs = random_inputs()
    images = fcos.preprocess_image(inputs)
    return fcos, generator, images, fcos.backbone(images.tensor), [item["instances"] for item in inputs]


def test_losses_are_those_of_fcos_for_one_class(twins):
    fcos, generator, images, features, instances = twins
    _, losses = generator(images, features, instances)
    given = GroundTruth.from_instances(instances)
    assert given.classes.any()  # which the generator leaves aside
    outputs = fcos.head([features[name] for name in LEVELS])
    expected = fcos.losses(outputs, GroundTruth(given.boxes, torch.zeros_like(given.classes), given.valid), images.image_sizes)
    assert {name.replace("fcos_rpn_", ""): loss for name, loss in losses.items()} == expected


def test_the_best_proposals_are_the_best_detections_of_fcos(twins):
    """NMS goes by level here and over all levels there, which makes no difference above any threshold of scores where nothing overlaps."""
    fcos, generator, images, features, _ = twins
    generator.eval().nms_thresh = fcos.postprocessor.nms_thresh = 1.0
    with torch.no_grad():
        proposals, losses = generator(images, features)
        detections = fcos.detect(fcos.head([features[name] for name in LEVELS]), images.image_sizes)
    assert losses == {}
    for found, expected in zip(proposals, detections, strict=True):
        assert len(found) == len(expected) == 50
        assert_close(found.objectness_logits.sigmoid(), expected.scores)
        assert_close(found.proposal_boxes.tensor, expected.pred_boxes.tensor)


def generate(**keys):
    """Number of proposals of one untrained image, and the proposals, with changed keys."""
    cfg = rpn_cfg()
    cfg.MODEL.FCOS_RPN.BOX_CODER.NAME, cfg.MODEL.FCOS_RPN.HEAD.BOX_BIAS = "relu", 2.0
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 1000
    for key, value in keys.items():
        cfg.merge_from_list(["MODEL." + key.replace("__", "."), value])
    model, generator = build_generator(cfg)
    images = ImageList(torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0)), [SIZE])
    with torch.no_grad():
        features = model.backbone(images.tensor)
        return generator.eval()(images, features)[0][0]


def test_the_keys_of_the_rpn_hold():
    locations = (12 * 16, 6 * 8, 3 * 4)
    everything = generate(RPN__NMS_THRESH=1.0)
    assert len(everything) == sum(locations)
    assert len(generate(RPN__NMS_THRESH=1.0, RPN__POST_NMS_TOPK_TEST=7)) == 7
    assert len(generate(RPN__NMS_THRESH=1.0, RPN__PRE_NMS_TOPK_TEST=20)) == 20 + 20 + 12
    assert 0 < len(generate(RPN__NMS_THRESH=0.3)) < sum(locations)
    sides = everything.proposal_boxes.tensor[:, 2:] - everything.proposal_boxes.tensor[:, :2]
    least = int(sides.amin(1).median())
    assert len(generate(RPN__NMS_THRESH=1.0, PROPOSAL_GENERATOR__MIN_SIZE=least)) == int((sides > least).all(1).sum())


def test_the_weights_of_the_losses_hold():
    cfg = rpn_cfg()
    plain = build_generator(cfg)[0](random_inputs())
    cfg.MODEL.RPN.LOSS_WEIGHT, cfg.MODEL.RPN.BBOX_REG_LOSS_WEIGHT = 0.5, 3.0
    weighted = build_generator(cfg)[0](random_inputs())
    for name, factor in (("cls", 0.5), ("box", 1.5), ("quality", 0.5)):
        assert_close(weighted[f"loss_fcos_rpn_{name}"], factor * plain[f"loss_fcos_rpn_{name}"])


def test_without_center_ness_the_class_alone_ranks():
    cfg = rpn_cfg("ProposalNetwork")
    cfg.MODEL.FCOS_RPN.HEAD.QUALITY = "none"
    model, generator = build_generator(cfg)
    assert set(model(random_inputs())) == {"loss_fcos_rpn_cls", "loss_fcos_rpn_box"}
    images = ImageList(torch.rand(1, 3, *SIZE), [SIZE])
    with torch.no_grad():
        features = model.backbone(images.tensor)
        outputs = generator.head([features[name] for name in LEVELS])
        best = torch.cat([x.flatten() for x in outputs.logits]).max()
        assert_close(generator.eval()(images, features)[0][0].objectness_logits[0], best)


@pytest.mark.parametrize("assigner", ["ATSSAssigner", "DWAssigner", "AutoAssignAssigner", "HungarianAssigner"])
def test_any_assigner_chooses_what_learns(assigner):
    cfg = rpn_cfg("ProposalNetwork")
    node = cfg.MODEL.FCOS_RPN
    node.ASSIGNER, node.BOX_CODER.NAME, node.LOSS.BOX, node.HEAD.QUALITY = assigner, "delta", "giou", "box"
    model, generator = build_generator(cfg)
    losses = model(random_inputs())
    sum(losses.values()).backward()
    assert all(name.startswith("loss_fcos_rpn_") and loss.isfinite() for name, loss in losses.items())
    assert [name for name, parameter in generator.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("empty", [[0], [0, 1]])
def test_images_without_objects_train(empty):
    inputs = random_inputs()
    for i in empty:
        inputs[i]["instances"] = inputs[i]["instances"][:0]
    losses = build_generator(rpn_cfg())[0](inputs)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


def test_what_cannot_be_is_said():
    with pytest.raises(ConfigError, match=r"RPN.IN_FEATURES is \['p3', 'p9'\]. It has to be one of 'p3'"):
        build_model(rpn_cfg(levels=("p3", "p9")))
    model, _ = build_generator(rpn_cfg("ProposalNetwork"))
    with pytest.raises(ValueError, match="instances"):
        model([{"image": random_inputs(1)[0]["image"]}])


def test_the_anchors_head_of_table_6_has_group_norm():
    cfg = rpn_cfg("ProposalNetwork")
    cfg.MODEL.PROPOSAL_GENERATOR.NAME, cfg.MODEL.RPN.HEAD_NAME = "RPN", "GNRPNHead"
    model = build_model(cfg)
    assert isinstance(model.proposal_generator.rpn_head.conv.norm, torch.nn.GroupNorm)
    assert set(model(random_inputs())) == {"loss_rpn_cls", "loss_rpn_loc"}


@pytest.mark.parametrize("architecture", ["ProposalNetwork", "GeneralizedRCNN"])
def test_recall_of_the_proposals_is_evaluated(architecture, tmp_path):
    cfg = rpn_cfg(architecture)
    cfg.DATASETS.TEST = (register_toy_data(make_toy_data(tmp_path), "toy"),)
    cfg.DATALOADER.NUM_WORKERS, cfg.INPUT.MIN_SIZE_TEST, cfg.OUTPUT_DIR = 0, 64, str(tmp_path)
    model, _ = build_generator(cfg)
    results = evaluate(cfg, model)["toy"]
    assert {"AR@100", "AR@1000", "ARs@100"} <= set(results["box_proposals"])
    assert ("bbox" in results) == (architecture == "GeneralizedRCNN")
    assert not model._forward_hooks
    cfg.TEST.PROPOSALS = False
    assert ("box_proposals" in evaluate(cfg, model)["toy"]) == (architecture == "ProposalNetwork")
