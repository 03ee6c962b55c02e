"""The page of the model zoo, ``MODEL_ZOO.md``: ``python -m detkit.model_zoo > MODEL_ZOO.md``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from .table import OWN_SOURCE, ZooEntry, entries

__all__ = ["RECORD", "render"]

#: what ``tools/verify_zoo.py --record`` has measured: name -> AP, date, hardware, sha256 and size of the file
RECORD = Path(__file__).parent / "verified.json"

_HEAD = """\
# Model zoo

<!-- written by python -m detkit.model_zoo > MODEL_ZOO.md -->

Published weights whose architecture the project has, each bound to the config with its source's conventions. A name is all that is needed:

```python
import detkit.model_zoo

cfg = detkit.model_zoo.get_config("fcos_R_50_FPN_1x_mmdet")  # MODEL.WEIGHTS is detkit://fcos_R_50_FPN_1x_mmdet
predictor = detkit.Predictor(cfg)  # or Detectron2's DefaultPredictor(cfg)
```

    ./train_net.py --config-file configs/fcos/fcos_R_50_FPN_1x_mmdet.yaml --eval-only MODEL.WEIGHTS detkit://fcos_R_50_FPN_1x_mmdet

The file is fetched from its source at first use, checked, fitted to the config with nothing left over, and kept as a safe file of our
names in the cache (`FVCORE_CACHE`). Weights are refused wherever a model is to predict with another config than theirs: told by their
name, by the name and the content of a file, and by their layout. Who has a file that no program can fetch makes it known under its
name: `python tools/convert.py FILE --name NAME`.

AP is that of the source, of boxes on COCO unless the column says otherwise. The weights belong to their sources: mind the licence, which
for some allows no commercial use. Nothing is re-hosted here.

How a config is known to mean by the weights what its source does, beside all keys finding their places:

- *outputs*: raw maps or detections of the source's code, computed with weights that are made from their names, are those of the config
  ([golden cases](tests/parity/README.md), and `tests/model_zoo`); of one network for all rows with the same settings.
- *package*: torchvision's or Detectron2's own model beside ours, in the tests.
- *parts*: assignment, losses and post-processing of the source's code, not its whole network.
- *keys*: nothing else.

"""


def render() -> str:
    """The text of the page."""
    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    rows = [entry for entry in entries().values() if entry.config and entry.source != OWN_SOURCE]
    own = [entry for entry in entries().values() if entry.source == OWN_SOURCE]
    lines = [_HEAD, _verified(rows, record), ""]
    for source, group in groupby(sorted(rows, key=lambda entry: (entry.source.lower(), entry.name.lower())), lambda entry: entry.source):
        lines += _section(source, list(group), record)
    return "\n".join([*lines, *_own(own), *_refused()]).rstrip() + "\n"


def _own(rows: list[ZooEntry]) -> list[str]:
    lines = ["## Small models of our own", "", "Made by one command each, in minutes on a CPU; nobody offers the files.", ""]
    lines += ["| name | AP on generated pictures | command |", "|---|---|---|"]
    return [*lines, *(f"| `{row.name}` | {row.ap} | `python {row.page} {row.name}` |" for row in rows), ""]


def _verified(rows: list[ZooEntry], record: dict[str, Any]) -> str:
    kinds = [_proof(entry) for entry in rows]
    counts = ", ".join(f"{kinds.count(kind)} by {kind}" for kind in ("outputs", "package", "parts", "keys") if kind in kinds)
    text = f"{len(rows)} rows: {counts}.\n\n"
    if not record:
        return text + (
            "**No published file has been evaluated with this project yet**: where it was written there is no network to them. Whoever has "
            "one, COCO and a GPU proves the table with one command, `python tools/verify_zoo.py --datasets DIR`."
        )
    passed = sum(each["reported"] is not None and abs(each["ap"] - each["reported"]) <= each["tolerance"] for each in record.values())
    return text + f"Evaluated on COCO val2017 by `tools/verify_zoo.py`: {len(record)}, of which {passed} have the AP of their source."


def _section(source: str, rows: list[ZooEntry], record: dict[str, Any]) -> list[str]:
    pages = {entry.page for entry in rows}
    lines = [f"## {source}", ""]
    if len(pages) == 1:
        lines += [f"[Page]({pages.pop()}). Licence: {rows[0].licence}."]
    else:
        lines += [f"Licence: {rows[0].licence}."]
    lines += ["", "| name | AP | split | shown by | measured here | weights |", "|---|---|---|---|---|---|"]
    for entry in rows:
        ap = "" if entry.ap is None else f"{entry.ap}{'' if entry.metric == 'box' else f' ({entry.metric})'}"
        cells = (f"`{entry.name}`", ap, entry.split, _proof(entry), _measured(record.get(entry.name)), _weights(entry))
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *_notes(rows)]


def _notes(rows: Iterable[ZooEntry]) -> list[str]:
    lines = [f"- `{entry.name}`: {entry.note}." for entry in rows if entry.note]
    others = [
        f"- `{entry.name}` has the config of `{Path(str(entry.config)).stem}`."
        for entry in rows
        if Path(str(entry.config)).stem != entry.name
    ]
    return [*lines, *others, ""] if lines or others else []


def _proof(entry: ZooEntry) -> str:
    kind = (entry.proof or "keys").partition(":")[0]
    return {"golden": "outputs", "peer": "package"}.get(kind, kind)


def _measured(found: dict[str, Any] | None) -> str:
    return "not run" if found is None else f"{found['ap']} ({found['date']}, {found['hardware']})"


def _weights(entry: ZooEntry) -> str:
    if entry.address:
        return f"[{entry.file_name}]({entry.address})"
    return f"[page]({entry.page}), a local file alone"


def _refused() -> list[str]:
    lines = [
        "## Known and refused",
        "",
        "Files whose names and shapes fit one of our detectors, and which mean something else by them. They are refused wherever",
        "they are used.",
        "",
        "| file | AP of its source | why |",
        "|---|---|---|",
    ]
    for entry in entries().values():
        if not entry.config:
            lines.append(f"| [{entry.file_name}]({entry.address}) | {entry.ap} | {entry.note} |")
    return [*lines, ""]
