"""How the shipped config files build on each other: short chains, and no file repeats or takes back what its bases set."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from detkit.config import get_cfg

from .architectures import ROOT

FILES = sorted((ROOT / "configs").rglob("*.yaml"))
EACH_FILE = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "configs").with_suffix("")))
LONGEST_CHAIN = 4
#: (file, key) -> why its value equals the project's default although a base had set another
TAKEN_BACK = {
    ("lsnet/lsnet_pose_kps_box_X_101_64x4d_DCN_FPN_20e_ms", "SOLVER.BASE_LR"): "a tenth of the base's happens to be Detectron2's default",
    **{
        (
            f"atss/retinanet_{network}_mmdet",
            "MODEL.BACKBONE.TRAIN_AFFINE",
        ): "mmdetection fixes it on Caffe's networks alone"
        for network in ("R_50_caffe_FPN_1x", "R_101_caffe_FPN_1x", "R_101_caffe_FPN_3x")
    },
    **{
        (f"atss/freeanchor_{network}_FPN_1x_mmdet", "MODEL.ATSS.BOX_CODER.DELTA_WEIGHTS"): "FreeAnchor weights deltas as ATSS does"
        for network in ("R_50", "R_101", "X_101_32x4d")
    },
}


@cache
def content(path: Path) -> tuple[tuple[Path, ...], dict[str, Any]]:
    """The bases of a file in their order, and the settings that stand in it, by dotted key."""
    tree = yaml.safe_load(path.read_text()) or {}
    bases = tree.pop("_BASE_", [])
    bases = [bases] if isinstance(bases, str) else bases
    return tuple((path.parent / base).resolve() for base in bases), dict(flat(tree))


def flat(tree: dict[str, Any], prefix: str = "") -> Any:
    for key, value in tree.items():
        if hasattr(value, "items"):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@cache
def defaults() -> dict[str, Any]:
    return dict(flat(get_cfg()))


@cache
def resolved(path: Path) -> dict[str, Any]:
    """Every key of a file's config."""
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    return dict(flat(cfg))


@cache
def set_keys(path: Path) -> frozenset[str]:
    """The keys that a file or one of its bases sets."""
    bases, own = content(path)
    return frozenset(own).union(*(set_keys(base) for base in bases))


@cache
def depth(path: Path) -> int:
    """Files in the longest chain of bases, this one included."""
    return 1 + max((depth(base) for base in content(path)[0]), default=0)


def before(path: Path) -> dict[str, Any]:
    """What a file's bases set together, by dotted key."""
    bases = content(path)[0]
    return {key: resolved(base)[key] for base in bases for key in set_keys(base)}


@EACH_FILE
def test_chain_is_short(path: Path) -> None:
    assert depth(path) <= LONGEST_CHAIN


@EACH_FILE
def test_file_sets_only_what_its_bases_do_not_give(path: Path) -> None:
    given, ours = before(path), resolved(path)
    assert [key for key in content(path)[1] if key in given and given[key] == ours[key]] == []


@EACH_FILE
def test_file_takes_back_nothing(path: Path) -> None:
    """A value that a base set never becomes the default again, neither in the file itself nor by the order of its bases."""
    ours, default = resolved(path), defaults()
    bases = content(path)[0]
    changed = {key for base in bases for key in set_keys(base) if resolved(base)[key] != default[key]}
    taken_back = {key for key in changed if ours[key] == default[key]}
    name = str(path.relative_to(ROOT / "configs").with_suffix(""))
    assert taken_back == {key for file, key in TAKEN_BACK if file == name}


def test_exceptions_are_of_files() -> None:
    assert {ROOT / "configs" / f"{name}.yaml" for name, _ in TAKEN_BACK} <= set(FILES)
