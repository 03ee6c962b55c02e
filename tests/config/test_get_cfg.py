"""All keys in one config."""

from __future__ import annotations

import copy
import pickle

import pytest
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from detkit.config import METHOD_PACKAGES, SafeCfgNode, get_cfg, load_method_packages


def test_keys_of_every_room_and_method() -> None:
    cfg = get_cfg()
    assert {"FCOS", "ATSS", "ASSIGNERS"} <= set(cfg.MODEL)
    assert "EMA" in cfg.SOLVER
    assert "TRAIN_JSON" in cfg.DATASETS
    assert "BOTTOM_UP" in cfg.MODEL.FPN


def test_meta_architectures_are_registered() -> None:
    get_cfg()
    assert {"FCOS", "ATSS"} <= {name for name, _ in META_ARCH_REGISTRY}


def test_method_packages_are_loaded_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [package.__name__ for package in load_method_packages()] == list(METHOD_PACKAGES)
    monkeypatch.setattr("detkit.config.plugins.METHOD_PACKAGES", ("fcos_atss", "not_installed"))
    assert [package.__name__ for package in load_method_packages()] == ["fcos_atss"]


def test_two_configs_share_nothing() -> None:
    one, other = get_cfg(), get_cfg()
    one.MODEL.FCOS.IN_FEATURES.append("p8")
    one.SOLVER.BASE_LR = 7.0
    assert "p8" not in other.MODEL.FCOS.IN_FEATURES
    assert other.SOLVER.BASE_LR != 7.0


@pytest.mark.parametrize("again", [CfgNode.clone, copy.deepcopy, lambda cfg: pickle.loads(pickle.dumps(cfg))])  # noqa: S301
def test_copies_read_safely_too(again) -> None:
    cfg = again(get_cfg())
    assert type(cfg) is SafeCfgNode
    assert type(cfg.MODEL.FPN) is SafeCfgNode
    assert cfg == get_cfg()


def test_a_dumped_config_can_be_merged(tmp_path) -> None:
    cfg = get_cfg()
    cfg.SOLVER.STEPS = (3, 5)
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    merged = get_cfg()
    merged.merge_from_file(str(path))
    assert yaml.safe_load(merged.dump()) == yaml.safe_load(cfg.dump())
    assert yaml.safe_load(path.read_text())["SOLVER"]["STEPS"] == [3, 5]
