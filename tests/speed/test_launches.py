"""How many operations a training step would launch on a GPU, where small ones take the time of their launch.

The numbers are pinned from above: fewer is better, more needs a reason. Other codes, counted on a CPU
(measured there on 2026-11-28, not here): Detectron2's FCOS 1 481, mmdetection's FCOS, ATSS and TOOD 1 229, 1 865 and 2 778, the official
Sparse R-CNN 3 780.
Values cannot be read on the device on which is counted, so that no step here waits for one either.
"""

from __future__ import annotations

import pytest
import torch

from detkit import get_config_file
from detkit.config import get_cfg
from tests.toys.detectors import random_inputs
from tests.toys.devices import launches_of_step, matched_by_hand

#: of the config: most operations forward with the losses, and in all with the backward pass
MOST = {
    "fcos/fcos_R_50_FPN_1x.yaml": (510, 1100),
    "atss/atss_R_50_FPN_1x.yaml": (590, 1210),
    "dw/dw_R_50_FPN_1x.yaml": (610, 1150),  # three to find logits that are left as the head gave them
    "lsnet/lsnet_R_50_FPN_1x.yaml": (1035, 1900),
    "sparsercnn/sparsercnn_R_50_FPN_100pro_3x.yaml": (900, 1618),
}


@pytest.mark.parametrize("config", MOST)
def test_a_training_step_launches_no_more_than_it_did(config, monkeypatch):
    matched_by_hand(monkeypatch)
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(config))
    cfg.MODEL.WEIGHTS = ""
    data = random_inputs(size=(256, 320))
    for item in data:
        item["instances"].gt_landmarks = torch.ones(3, 4, 3)  # LSNet's extreme points; only their number counts
    forward, backward = launches_of_step(cfg, data, monkeypatch)
    most_forward, most = MOST[config]
    assert forward <= most_forward and forward + backward <= most
