"""Finding and reading golden cases: numbers computed by the published codes, one json and one npz per case."""

from __future__ import annotations

import json
import os
import re
import zlib
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "COMPACT_FOLDER",
    "FULL_FOLDER",
    "METHOD_SETS",
    "SETS",
    "GoldenCase",
    "compact_selection",
    "find_cases",
    "procedural_state_dict",
    "tolerance",
    "unlisted_cases",
]

#: the selection that every clone has
COMPACT_FOLDER = Path(__file__).parent / "data"
#: all cases, read in place
FULL_FOLDER = Path(os.environ.get("DETKIT_GOLDENS", Path(__file__).parents[3] / "shared" / "goldens"))
#: the sets of dense detectors, whose conventions sources.py knows
SETS = ("fcos", "atss_official", "mmdet_fcos", "mmdet_atss")
#: sets that a test file of their own reads whole
METHOD_SETS = ("dw", "lsnet", "mmdet_tood", "sparsercnn", "mmdet_sparse_rcnn")


@dataclass(frozen=True)
class GoldenCase:
    """One case, read when it is first needed.

    Attributes:
        set_name: folder it lies in.
        name: of its files.
        folder: where the sets lie.
    """

    set_name: str
    name: str
    folder: Path

    @property
    def id(self) -> str:
        return f"{'compact:' if self.folder == COMPACT_FOLDER else ''}{self.set_name}/{self.name}"

    @property
    def json_file(self) -> Path:
        """What describes the case."""
        return self.folder / self.set_name / f"{self.name}.json"

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The json."""
        return json.loads(self.json_file.read_text())

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The npz; empty where the case has none."""
        path = self.json_file.with_name(f"{self.name}.npz")
        if not path.exists():
            return {}
        with np.load(path) as file:
            return {name: file[name] for name in file.files}

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return self.meta.get("hyperparameters") or {}

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the official state dict; empty where the case has no network."""
        return {key: tuple(shape) for key, shape, *_ in self.meta.get("state_dict") or []}

    def tensor(self, name: str) -> Tensor:
        """An array, float32 or int64."""
        tensor = torch.from_numpy(self.arrays[name])
        return tensor.float() if tensor.is_floating_point() else tensor.long()

    def sampled(self, name: str) -> tuple[Tensor | None, Tensor] | None:
        """Flat indices (None: all) and values of a map, however it is stored; None where the case does not have it."""
        for index_name, value_name in ((f"{name}__index", name), (f"{name}__idx", f"{name}__val")):
            if index_name in self.arrays:
                return self.tensor(index_name), self.tensor(value_name)
        return (None, self.tensor(name).flatten()) if name in self.arrays else None

    @property
    def kind(self) -> str:
        """What the case holds, by the manifest; ``"unlisted"`` if it is not there."""
        kinds = _manifest()["kinds"].get(self.set_name, {})
        return next((kind for kind, names in kinds.items() if self.name in names), "unlisted")


@cache
def _manifest() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "manifest.json").read_text())


def compact_selection() -> dict[str, list[str]]:
    """Names of the cases that every clone has, by set."""
    return _manifest()["compact"]


def find_cases(*kinds: str, sets: tuple[str, ...] = SETS) -> list[GoldenCase]:
    """The cases of these kinds, the compact selection first. Without kinds: all.

    Returns:
        the cases of the manifest; without those that only the full set has where that is missing as a whole.

    Raises:
        ValueError: the manifest lists no such case, so that a test would compare nothing.
        FileNotFoundError: a case of the manifest is missing.
    """
    listed = [(s, n) for s in sets for kind, names in _manifest()["kinds"][s].items() if not kinds or kind in kinds for n in names]
    if not listed:
        raise ValueError(f"tests/parity/manifest.json lists no case of the kinds {', '.join(kinds)} in {', '.join(sets)}")
    found = [GoldenCase(s, n, COMPACT_FOLDER) for s, n in listed if n in compact_selection().get(s, ())]
    if FULL_FOLDER.is_dir():
        found += [GoldenCase(s, n, FULL_FOLDER) for s, n in listed]
    for case in found:
        if not case.json_file.is_file():
            raise FileNotFoundError(f"golden case {case.id} of tests/parity/manifest.json is missing: {case.json_file}")
    return found


def unlisted_cases() -> list[GoldenCase]:
    """Cases in the folders that the manifest does not list."""
    found = (
        GoldenCase(path.parent.name, path.stem, folder) for folder in (COMPACT_FOLDER, FULL_FOLDER) for path in folder.glob("*/*.json")
    )
    return sorted((case for case in found if case.kind == "unlisted"), key=lambda case: case.id)


def procedural_state_dict(case: GoldenCase) -> dict[str, Tensor]:
    """The official weights of a case, by its rule ``procedural-v1``: a function of seed, key and shape alone."""
    weights = case.meta["weights"]
    if weights["rule"] != "procedural-v1":
        raise ValueError(f"{case.id}: the rule of weights '{weights['rule']}' is not known.")
    return {key: _procedural(weights["seed"], key, shape) for key, shape in case.state_shapes.items()}


def _procedural(seed: int, key: str, shape: tuple[int, ...]) -> Tensor:
    random = np.random.RandomState(zlib.crc32(f"{seed}:{key}".encode()) & 0xFFFFFFFF)
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if key.endswith("running_var"):
        values = 0.5 + random.rand(*shape)
    elif key.endswith("running_mean"):
        values = 0.1 * random.randn(*shape)
    elif "proposal_boxes" in key or "proposal_bboxes" in key:
        values = 0.25 + 0.5 * random.rand(*shape)
    elif int(np.prod(shape)) == 1 and len(shape) < 2:
        values = 1 + 0.1 * random.randn(*shape)
    elif len(shape) == 1:
        values = 0.3 + 0.4 * random.rand(*shape) if key.endswith("weight") else 0.1 * random.randn(*shape)
    else:
        values = random.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
    return torch.as_tensor(np.asarray(values, dtype=np.float32))


#: quantity -> names under which a case states its tolerance, and what holds where it states none: (absolute, relative)
_TOLERANCES = {
    "raw": (("raw", "raw maps"), (2e-4, 1e-3)),
    "weights": (("weights", ""), (0.0, 1e-4)),
    "boxes": (("boxes", "stage_boxes", "all"), (1e-2, 0.0)),
    "logits": (("logits", "stage_logits", "all"), (1e-3, 0.0)),
    "features": (("features", "all"), (1e-3, 1e-4)),
    "costs": (("cost", "costs"), (1e-4, 0.0)),
    "output": (("output", "pooled", "all"), (0.0, 1e-5)),
    "scores": (("scores",), (1e-4, 0.0)),
    "targets": (("targets", "reg"), (1e-4, 0.0)),
    "centerness": (("centerness", "ctr"), (1e-5, 0.0)),
    "heat maps": (("heat maps",), (1e-5, 0.0)),
    "losses": (("losses", ""), (0.0, 1e-4)),
    "gradients": (("gradients", "grad_norms", "grad_norm", "gradient norms"), (0.0, 1e-3)),
}
_NUMBER = r"(\d+(?:\.\d+)?(?:e-?\d+)?)"
_STATED = re.compile(rf"(?:(abs|rel)\w*\s+)?{_NUMBER}\s*(abs|rel|px)?")


def tolerance(case: GoldenCase, quantity: str) -> tuple[float, float]:
    """Absolute and relative tolerance of a quantity, one of the keys of ``_TOLERANCES``."""
    names, default = _TOLERANCES[quantity]
    stated = case.meta.get("tolerance") or {}
    if isinstance(stated, str):
        stated = _clauses(stated)
    text = next((stated[name] for name in names if name in stated), "")
    values: dict[str, float] = {}
    for before, number, after in _STATED.findall(str(text)):
        values.setdefault("rel" if "rel" in (before, after) else "abs", float(number))
    return (values.get("abs", 0.0), values.get("rel", 0.0)) if values else default


def _clauses(prose: str) -> dict[str, str]:
    """Tolerances stated as prose ("weights rtol 1e-4, losses rtol 1e-5") by what they are for; "" where it does not say."""
    prose = re.sub(r"\(.*?\)", "", prose).replace("rtol", "rel").replace("atol", "abs")
    found = (re.match(r"\s*((?:(?!abs|rel)[a-z]+\s+)*)((?:abs |rel )?\d.*)", clause) for clause in re.split("[;,:]", prose))
    return {match[1].strip(): match[2] for match in found if match}
