"""The method of docs/add-a-method.md, as it stands there, trains and detects."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model

from detkit.assigners import ASSIGNER_REGISTRY
from detkit.dense.heads import DENSE_HEAD_REGISTRY
from tests.toys.detectors import random_inputs, tiny_cfg

PAGE = Path(__file__).parents[2] / "docs" / "add-a-method.md"


@pytest.fixture
def method():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code.count("\n") <= 80
    names = {"__name__": "docs"}
    exec(compile(code, PAGE.name, "exec"), names)
    yield names
    for registry, name in ((META_ARCH_REGISTRY, "OneSpot"), (ASSIGNER_REGISTRY, "OneSpotAssigner"), (DENSE_HEAD_REGISTRY, "OneTowerHead")):
        del registry._obj_map[name]


def test_it_trains_and_detects(method):
    cfg, toy = method["get_one_spot_cfg"](), tiny_cfg("FCOS")
    for section in ("BACKBONE", "FPN"):
        cfg.MODEL[section] = toy.MODEL[section]
    cfg.MODEL.DEVICE = "cpu"
    node = cfg.MODEL.ONE_SPOT
    node.NUM_CLASSES, node.IN_FEATURES, node.HEAD.CHANNELS, node.HEAD.NUM_CONVS = 3, toy.MODEL.FCOS.IN_FEATURES, 32, 1
    torch.manual_seed(0)
    model, inputs = build_model(cfg).train(), random_inputs()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(30):
        losses = model(inputs)
        assert set(losses) == {"loss_cls", "loss_box"}
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total))
    assert totals[-1] < 0.7 * totals[0]
    images = model.preprocess_image(inputs)
    predictions, priors = model.pipeline.decode(model.predict(images))
    gt = model.ground_truth([item["instances"] for item in inputs])
    labels = model.pipeline.assign(priors, gt, predictions, images.image_sizes).gt_index
    assert 0 < (labels >= 0).sum() <= gt.valid.sum()  # one location for each object, some shared
    found = model.eval()(inputs)[0]["instances"]
    assert len(found) > 0 and found.pred_boxes.tensor.isfinite().all()
