"""How many operations a training step would launch on a GPU, where small ones take the time of their launch.

The numbers are pinned from above: fewer is better, more needs a reason. ``PEERS`` counts Detectron2's own FCOS in the same way.
"""

from __future__ import annotations

import pytest

from detkit import get_config_file
from detkit.config import get_cfg
from tests.toys.detectors import random_inputs
from tests.toys.devices import launches_of_step, matched_by_hand

#: of the config: most operations forward with the losses, and in all with the backward pass
MOST = {
    "fcos/fcos_R_50_FPN_1x.yaml": (510, 1100),
    "atss/atss_R_50_FPN_1x.yaml": (590, 1210),
    "dw/dw_R_50_FPN_1x.yaml": (580, 1200),
    "sparsercnn/sparsercnn_R_50_FPN_100pro_3x.yaml": (900, 1618),
}


@pytest.mark.parametrize("config", MOST)
def test_a_training_step_launches_no_more_than_it_did(config, monkeypatch):
    matched_by_hand(monkeypatch)
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(config))
    cfg.MODEL.WEIGHTS = ""
    forward, backward = launches_of_step(cfg, random_inputs(size=(256, 320)), monkeypatch)
    print(config, forward, forward + backward)
    most_forward, most = MOST[config]
    assert forward <= most_forward and forward + backward <= most
