"""Makes the compact selection of golden cases in tests/parity/data from the full set: ``python -m tests.parity.select_compact``.

Which cases are selected is in manifest.json. Whole models keep some of the values of each map, some cases of several
parts the first of them.
"""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import numpy as np

from .cases import COMPACT_FOLDER, FULL_FOLDER, GoldenCase, compact_selection

#: cases of several parts that keep only the first ones
FIRST_PARTS = {"loss_adet": 6}
#: cases whose arrays end with the number of their part, and how many parts they keep
NUMBERED_PARTS = {"assigners": 2, "pyramid_dcn": 3}
#: values kept of a map of a whole model
MAP_VALUES = 600
#: locations kept of each level where a whole model's maps are stored at some locations
LEVEL_POINTS = 16
_MAP = re.compile(r"(?:cls|reg|ctr|fpn|logits|prob|cls_feat|reg_feat)\d|batch|(?:logits|reg|ctr|feat)_p\d|stage_logits(?!_)")


def select(case: GoldenCase) -> None:
    """Writes the compact form of a case."""
    meta, arrays = dict(case.meta), dict(case.arrays)
    if case.state_shapes:
        arrays = _thinned(case)
    elif case.name in FIRST_PARTS:
        meta["cases"] = meta["cases"][: FIRST_PARTS[case.name]]
        kept = {f"c{k}" for k in range(len(meta["cases"]))}
        arrays = {name: value for name, value in arrays.items() if name.split("_")[0] in kept}
    elif case.kind == "landmark_targets":
        meta["scalars"] = {"annotations": meta["scalars"]["annotations"][:1]}
        arrays = {name: value for name, value in arrays.items() if name.startswith(("us_", "mask")) or re.search(r"\D0(?:_|$)", name)}
    elif case.name in NUMBERED_PARTS:
        count = NUMBERED_PARTS[case.name]
        arrays = {name: value for name, value in arrays.items() if int(re.search(r"\d+$", name)[0]) < count}
    folder = COMPACT_FOLDER / case.set_name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{case.name}.json").write_text(json.dumps(meta, separators=(",", ":")) + "\n")
    np.savez_compressed(folder / f"{case.name}.npz", **arrays)


def _thinned(case: GoldenCase) -> dict[str, Any]:
    """The arrays of a whole model with every n-th value of its maps."""
    arrays = {name: value for name, value in case.arrays.items() if not _MAP.match(name)}
    names = {re.sub(r"__\w+", "", name) for name in case.arrays if _MAP.match(name)}
    for name in sorted(names):
        index, values = case.sampled(name)
        where = np.arange(len(values)) if index is None else index.numpy()
        step = max(1, len(where) // MAP_VALUES)
        arrays[f"{name}__idx"], arrays[f"{name}__val"] = where[::step].astype(np.int32), values.numpy()[::step]
    return _with_fewer_points(arrays)


def _with_fewer_points(arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays with the first locations of every ``points_l<level>`` and of the maps (B, locations, C) that are stored at them."""
    counts = {name.removeprefix("points"): len(value) for name, value in arrays.items() if name.startswith("points_l")}

    def kept(name: str, value: Any) -> Any:
        level = name[name.rfind("_l") :]
        if name.startswith("points_l"):
            return value[:LEVEL_POINTS]
        return value[:, :LEVEL_POINTS] if value.ndim == 3 and value.shape[1] == counts.get(level) else value

    return {name: kept(name, value) for name, value in arrays.items()}


def main() -> None:
    shutil.rmtree(COMPACT_FOLDER, ignore_errors=True)
    selection = compact_selection()
    for set_name, names in selection.items():
        for name in names:
            select(GoldenCase(set_name, name, FULL_FOLDER))
    size = sum(path.stat().st_size for path in COMPACT_FOLDER.rglob("*.*"))
    print(f"{sum(map(len, selection.values()))} cases, {size / 2**20:.1f} MB in {COMPACT_FOLDER}")


if __name__ == "__main__":
    main()
