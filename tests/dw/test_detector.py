import pytest
import torch
from detectron2.modeling import build_model
from torch.testing import assert_close

from detkit.config import ConfigError, get_cfg
from dw import DW, RefiningHead
from tests.toys.detectors import random_inputs, tiny_cfg

TOOD_HEAD = ["MODEL.DW.HEAD.NAME", "TOODHead", "MODEL.DW.HEAD.QUALITY", "none", "MODEL.DW.BOX_CODER.NAME", "linear"]
HEADS = {"plain": [], "refining": ["MODEL.DW.HEAD.NAME", "RefiningHead"], "tood": TOOD_HEAD}


def build(*options):
    cfg = tiny_cfg("DW")
    cfg.merge_from_list(list(options))
    torch.manual_seed(0)
    return build_model(cfg)


@pytest.mark.parametrize("head", HEADS)
def test_training_step_reaches_every_parameter(head):
    model = build(*HEADS[head])
    assert type(model) is DW
    losses = model(random_inputs())
    assert set(losses) == {"loss_cls_pos", "loss_cls_neg", "loss_box"}
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("empty", [[0], [0, 1]])
def test_images_without_objects_train(head, empty):
    inputs = random_inputs()
    for i in empty:
        inputs[i]["instances"] = inputs[i]["instances"][:0]
    losses = build(*HEADS[head])(inputs)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert len(empty) < 2 or (losses["loss_box"] == 0 and losses["loss_cls_pos"] == 0)


def test_an_object_too_small_for_any_location_costs_nothing():
    """No location lies inside: no candidates, no positive loss, but it counts among the objects that the sums are divided by."""
    model, inputs = build(), random_inputs(1, num_boxes=2)
    two = model(inputs)
    inputs[0]["instances"].gt_boxes.tensor[1] = torch.tensor([17.0, 17.0, 18.0, 18.0])
    lost = model(inputs)
    inputs[0]["instances"] = inputs[0]["instances"][:1]
    one = model(inputs)
    assert two["loss_box"] != lost["loss_box"]
    assert_close(lost["loss_box"] * 2, one["loss_box"])
    assert_close(lost["loss_cls_pos"] * 2, one["loss_cls_pos"])


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_gives_what_its_images_give_alone(head):
    model = build(*HEADS[head], "MODEL.DW.TEST.SCORE_THRESH", 0.0001).eval()
    inputs = random_inputs(2)
    with torch.no_grad():
        together, alone = model(inputs), [model([x])[0] for x in inputs]
    for a, b in zip(together, alone, strict=True):
        assert len(a["instances"]) > 0
        assert_close(a["instances"].scores, b["instances"].scores)
        assert_close(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("head", HEADS)
def test_trains_in_half_precision(head):
    model, inputs = build(*HEADS[head]), random_inputs()
    full = {name: loss.item() for name, loss in model(inputs).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(inputs)
    assert {name: loss.item() for name, loss in half.items()} == pytest.approx(full, rel=0.05)
    sum(half.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("head", HEADS)
def test_a_gpu_gives_what_a_cpu_gives(head):
    model, inputs = build(*HEADS[head]), random_inputs()
    on_cpu = model(inputs)
    on_gpu = {name: loss.cpu() for name, loss in model.cuda()(inputs).items()}
    assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-5)


def test_score_is_class_times_objectness():
    model = build("MODEL.DW.TEST.SCORE_THRESH", 0.0001).eval()
    inputs = random_inputs(1)
    with torch.no_grad():
        images = model.preprocess_image(inputs)
        outputs = model.head(list(model.backbone(images.tensor).values()))
        (found,) = model.detect(outputs, images.image_sizes)
        logits, _, quality = outputs.flatten(3)
    assert_close(found.scores[0], (logits.sigmoid() * quality.sigmoid()[..., None]).max())


def test_initial_values_are_the_official_ones():
    head = build("MODEL.DW.HEAD.NAME", "RefiningHead").head
    assert isinstance(head, RefiningHead)
    assert_close(head.cls_score.bias.sigmoid(), torch.full((3,), 0.02))
    assert_close(head.box_pred.bias.data, torch.full((4,), 4.0))
    assert not head.offset_pred.bias.any()
    assert float(head.offset_pred.weight.detach().std()) == pytest.approx(0.01, rel=0.1)


def test_center_prior_travels_with_the_checkpoint():
    state = build("MODEL.ASSIGNERS.DW.PRIOR_SIGMA", 2.0).state_dict()
    model = build()
    model.load_state_dict(state)
    assert_close(model.assigner.center_prior.sigma, torch.full((3, 2), 2.0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["MODEL.DW.HEAD.NAME", "RefiningHaed"], "MODEL.DW.HEAD.NAME is 'RefiningHaed'.*did you mean 'RefiningHead'"),
        (["MODEL.DW.HEAD.NAME", "RefiningHead", "MODEL.DW.BOX_CODER.NAME", "exp"], "MODEL.DW.BOX_CODER.NAME is 'exp'. It has to be 'relu'"),
        (["MODEL.DW.HEAD.NAME", "TOODHead"], "MODEL.DW.BOX_CODER.NAME is 'relu'. It has to be 'linear'"),
        ([*TOOD_HEAD, "MODEL.DW.HEAD.DCN_ON_FIRST_CONVS", 2], "MODEL.DW.HEAD.DCN_ON_FIRST_CONVS is 2. It has to be in"),
        ([*TOOD_HEAD, "MODEL.DW.HEAD.DCN_ON_LAST_CONV", True], "MODEL.DW.HEAD.DCN_ON_LAST_CONV is True, but TOODHead does not read it"),
        (["MODEL.DW.HEAD.DCN_ON_FIRST_CONVS", 1], "MODEL.DW.HEAD.DCN_ON_FIRST_CONVS is 1, but DenseHead does not read it"),
        ([*TOOD_HEAD, "MODEL.DW.HEAD.COARSE_BOX", "corner"], "MODEL.DW.HEAD.COARSE_BOX is 'corner'. It has to be one of"),
        (
            ["MODEL.DW.ANCHORS.SCALES", [4.0, 8.0], "MODEL.DW.HEAD.NAME", "RefiningHead"],
            "MODEL.DW.ANCHORS.SCALES is .4.0, 8.0.. It has to be a single number",
        ),
        (["MODEL.ASSIGNERS.DW.BAG", "nearest"], "MODEL.ASSIGNERS.DW.BAG is 'nearest'. It has to be one of"),
    ],
)
def test_keys_that_do_not_fit_are_named(options, words):
    with pytest.raises(ConfigError, match=words):
        build(*options)


def test_takes_real_objects():
    """No config below the parts: for notebooks and LazyConfig."""
    parts = DW.from_config(tiny_cfg("DW"))
    losses = DW(**parts).train()(random_inputs(1))
    assert all(loss.isfinite() for loss in losses.values())


def test_keys_and_defaults():
    cfg = get_cfg()
    assert cfg.MODEL.DW.ASSIGNER == "DWAssigner" and cfg.MODEL.DW.TEST.SCORE == "product"
