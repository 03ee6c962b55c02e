"""Every row of the model zoo: the keys of its file find their places, and something shows that its config means the same by them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from detkit.checkpoint import convert_state_dict
from detkit.checkpoint.belonging import conventions_of
from detkit.checkpoint.convert import empty_model
from detkit.checkpoint.key_maps import KEY_MAPS
from detkit.config import Conventions, get_cfg
from detkit.config_files import get_config_file
from detkit.model_zoo import OWN_SOURCE, ZooEntry, available, entries, find, of_file, page
from tests.config.architectures import config_name
from tests.config.settings import published, repositories, source_of
from tests.parity import lsnet_cases, sparsercnn
from tests.parity.test_configs import CONFIG_OF

from .key_lists import MissingGoldensError, golden_case, key_list
from .test_outputs import ROWS as OUTPUTS_OF

ROOT = Path(__file__).parents[2]
#: what proves rows -> the config whose outputs the tests compare with it
CONFIGS = {
    **CONFIG_OF,
    "fcos/tianzhi_imprv_inference": CONFIG_OF["fcos/tianzhi_imprv_train"],
    "dw/norefine": "dw/dw_R_50_FPN_1x.yaml",
    "dw/refine": "dw/dw_refine_R_50_FPN_1x.yaml",
    "mmdet_tood/infer_r50": "dw/tood_R_50_FPN_1x_mmdet.yaml",
    "mmdet_tood/infer_r50_anchor_based": "dw/tood_R_50_FPN_1x_mmdet_anchor.yaml",
    "detectron2": "atss/retinanet_R_50_FPN_1x_detectron2.yaml",
    **{case: str(find(row).config) for case, row in OUTPUTS_OF.items()},
}
#: what follows from the network and the levels of a row; tests/config compares these with the published config of each row
OF_NETWORK = ("MODEL.RESNETS.", "MODEL.BACKBONE.ARCH", "MODEL.PIXEL_STD", "MODEL.FPN.TOP_BLOCK", "MODEL.FCOS.IN_FEATURES")
#: of published weights
ROWS = [entry for entry in map(find, available()) if entry.source != OWN_SOURCE]


def places(entry: ZooEntry) -> bool:
    """Whether the keys of the row's file fill its model with nothing left over, but for what the key map ignores."""
    keys, model = key_list(entry), empty_model(str(entry.config))
    same = (entry.layout, *(tuple(sorted(shapes.items())) for shapes in (keys, {k: tuple(v.shape) for k, v in model.state_dict().items()})))
    if same not in _PLACED:
        with torch.device("meta"):
            state = {key: torch.empty(shape) for key, shape in keys.items()}
        _, report = convert_state_dict(state, model)
        _PLACED[same] = report.complete and report.source == entry.layout
    return _PLACED[same]


#: layout, keys of the file and of the model -> whether they find each other
_PLACED: dict[Any, bool] = {}


@pytest.mark.slow  # tests/model_zoo/test_convert.py takes one row of every source
@pytest.mark.parametrize("source", sorted({entry.source for entry in ROWS}))
def test_keys_of_every_row_find_their_places(source: str) -> None:
    rows = [entry for entry in ROWS if entry.source == source]
    missing = []
    for entry in rows:
        try:
            assert places(entry), entry.name
        except MissingGoldensError as error:
            missing.append(f"{entry.name}: {error}")
    if missing:
        pytest.skip(f"{len(missing)} of {len(rows)} rows were not compared: {missing[0]}")


def test_rows_and_proven_rows() -> None:
    """How many rows there are, and what proves them, for the record: print it with ``pytest -s``."""
    kinds = Counter((entry.proof or "keys").partition(":")[0] for entry in ROWS)
    print(f"{len(ROWS)} rows: {dict(kinds)}; {len(entries()) - len(ROWS)} files of other detectors are known and refused")
    assert kinds["golden"] + kinds["outputs"] + kinds["peer"] >= 100
    goldens = {
        "tianzhi0549/FCOS",
        "aim-uofa/AdelaiDet",
        "open-mmlab/mmdetection",
        "PeizeSun/SparseR-CNN",
        "strongwolf/DW",
        "Duankaiwen/LSNet",
    }
    assert [entry.name for entry in ROWS if entry.source in goldens and entry.proof is None] == []


@pytest.mark.parametrize("proof", sorted({entry.proof for entry in ROWS if entry.proof and not entry.proof.startswith("peer:torchvision")}))
def test_config_means_the_same_as_what_proves_it(proof: str) -> None:
    """So a deeper network is proven by the case of a shallower one: its settings are the same, and its keys find their places."""
    needed = reference(proof.partition(":")[2])
    for entry in ROWS:
        if entry.proof == proof:
            different = list((conventions_of(entry) or needed).differences(needed))
            assert [text for text in different if not text.startswith(OF_NETWORK)] == [], entry.name


def reference(case_name: str) -> Conventions:
    """What the weights of a golden case mean."""
    if case_name in CONFIGS:
        cfg = get_cfg()
        cfg.merge_from_file(get_config_file(CONFIGS[case_name]))
    else:
        try:
            case = golden_case(case_name)
        except MissingGoldensError as error:
            pytest.skip(str(error))
        cfg = (lsnet_cases if case.set_name == "lsnet" else sparsercnn).cfg_of(case)
    found = Conventions.of(cfg)
    assert found is not None
    return found


def test_table_says_what_the_sources_say() -> None:
    """Address, AP and split of rows whose published config is known."""
    compared = 0
    for entry in ROWS:
        source = source_of(ROOT / "configs" / str(entry.config))
        if source is None or Path(str(entry.config)).stem != entry.name:
            continue
        weights = published(source).weights
        assert (entry.ap, entry.split) in {(each["ap"], each["split"]) for each in weights}, entry.name
        offered = {each.get("address", "").removesuffix("?download=true") for each in weights}
        if entry.source != "PeizeSun/SparseR-CNN":  # its release has files as well, of which the config file's source says nothing
            assert entry.address in offered or any(entry.page and address.startswith(entry.page) for address in offered) or offered == {""}
        compared += 1
    assert compared >= 75


def test_published_weights_of_our_configs_are_in_the_table() -> None:
    """What the configs of ``tests/config/published_settings.json`` have published, but for what the header of a config explains."""
    configs = {source_of(path): config_name(path) for path in (ROOT / "configs").glob("*/*.yaml") if source_of(path)}
    used = {str(entry.config).removesuffix(".yaml") for entry in ROWS}
    offered = {
        configs[f"{repository}:{path}"]
        for repository, group in repositories().items()
        for path, config in group["configs"].items()
        if any(each.get("address", "").startswith("http") for each in config.get("weights", []))
    }
    offered = {name.removesuffix("_ms_test") for name in offered}
    left_out = {"fcos/fcos_HRNet_W32_FPN_2x", "fcos/rpn_R_50_FPN_1x", "sparsercnn/sparsercnn_PVT_v2_b2_FPN_300pro_crop_3x"}
    assert offered - used == left_out


def test_layouts_are_key_maps() -> None:
    assert {entry.layout for entry in entries().values()} <= {key_map.name for key_map in KEY_MAPS}


def test_files_are_told_by_name_and_content() -> None:
    name = "fcos_resnet50_fpn_coco-99b0c9b7.pth"
    assert of_file(name=name) is of_file(sha256="99b0c9b7" + "0" * 56) is find("fcos_R_50_FPN_1x_torchvision")
    assert of_file(name="model_final.pth") is None and of_file(sha256="0" * 64) is None
    assert sum(entry.hash_prefix is not None for entry in ROWS) >= 50


def test_page_is_current() -> None:
    assert (ROOT / "MODEL_ZOO.md").read_text() == page.render(), "write it again: python -m detkit.model_zoo > MODEL_ZOO.md"


def test_record_of_verification_is_of_rows() -> None:
    record = json.loads(page.RECORD.read_text())
    assert set(record) <= set(available())
