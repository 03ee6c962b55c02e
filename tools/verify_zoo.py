#!/usr/bin/env python
"""Evaluates the published weights of the model zoo on COCO val2017 and compares their AP with that of their sources.

python tools/verify_zoo.py --datasets DIR                     DIR/coco as Detectron2 expects it; all weights that can be fetched
python tools/verify_zoo.py --datasets DIR --names fcos_R_50_FPN_1x_mmdet atss_R_50_FPN_1x_mmdet
python tools/verify_zoo.py --datasets DIR --record            writes what was measured into the page of the model zoo

Each result is kept in the output folder as soon as it is there, so a run that was stopped goes on where it was. The weights are fetched
one after the other; --remove makes room again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TASKS = {"box": "bbox", "mask": "segm", "keypoint": "keypoints"}
#: splits whose images are those of COCO val2017
VAL = ("val2017", "minival")


@dataclass(frozen=True)
class Row:
    """What was measured of a row of the model zoo.

    Attributes:
        ap: measured here, in percent; None: it could not be.
        reported: by the source, on val2017; None: on another split or not at all.
        tolerance: how far they may be apart.
        error: why nothing could be measured.
    """

    ap: float | None
    reported: float | None
    tolerance: float
    date: str
    hardware: str
    error: str = ""

    @property
    def verdict(self) -> str:
        if self.ap is None:
            return f"failed: {self.error}"
        if self.reported is None:
            return "not comparable"
        return "ok" if abs(self.ap - self.reported) <= self.tolerance + 1e-9 else "differs"


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, evaluates row by row and prints the table.

    Raises:
        SystemExit: bad input, with one message; status 1 where a row differs from its source or could not be measured.
    """
    args = _parser().parse_args(argv)
    if args.datasets is not None:
        os.environ["DETECTRON2_DATASETS"] = str(args.datasets.resolve())  # Detectron2 reads it when it is imported
    import detkit.engine  # noqa: F401  first: it silences what dependencies say when they are imported
    from detkit import model_zoo

    try:
        names = args.names or [name for name in model_zoo.available() if model_zoo.find(name).address]
        entries = [model_zoo.find(name) for name in names]
    except model_zoo.ZooError as error:
        sys.exit(f"error: {error}")
    folder = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "coco"
    if not (folder / "annotations" / "instances_val2017.json").is_file():
        sys.exit(f"error: there is no {folder}/annotations/instances_val2017.json: name the folder that holds coco/ with --datasets.")
    done = _read(args.output / "results.json")
    for number, entry in enumerate(entries, start=1):
        found = done.get(entry.name)
        if found is None or found.ap is None or args.again:
            print(f"[{number}/{len(entries)}] {entry.name}", flush=True)
            done[entry.name] = found = _row(entry, lambda entry=entry: _measure(entry, args.output / entry.name, args.opts), args.tolerance)
            _write(args.output / "results.json", done)
            if args.remove:
                _remove(entry)
        print(f"    {_text(found)}", flush=True)
    rows = {entry.name: done[entry.name] for entry in entries}
    table = _table(rows)
    (args.output / "verify_zoo.md").write_text(table, encoding="utf-8")
    print(f"\n{table}\n{args.output / 'verify_zoo.md'}")
    if args.record:
        _record(rows)
    wrong = sum(row.verdict not in ("ok", "not comparable") for row in rows.values())
    if wrong:
        sys.exit(f"error: {wrong} of {len(rows)} rows differ from their source or could not be measured.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=Path, metavar="DIR", help="folder with coco/ in it (default: DETECTRON2_DATASETS)")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="rows of the model zoo (default: all that have an address)")
    parser.add_argument("--output", type=Path, default=Path("output/verify_zoo"), metavar="DIR")
    parser.add_argument("--tolerance", type=float, default=0.1, metavar="AP", help="how far from the source's AP is right (default: 0.1)")
    parser.add_argument("--again", action="store_true", help="measure rows again that have a result in the output folder")
    parser.add_argument("--remove", action="store_true", help="remove the files of weights from the cache after their evaluation")
    parser.add_argument("--record", action="store_true", help="write the results into the table behind MODEL_ZOO.md, and the page")
    parser.add_argument("--opts", nargs="+", default=(), metavar="KEY VALUE", help="overrides of config keys (MODEL.DEVICE cpu)")
    return parser


def _row(entry: Any, measure: Callable[[], float], tolerance: float) -> Row:
    reported = entry.ap if entry.split in VAL else None
    where = {"date": datetime.date.today().isoformat(), "hardware": _hardware()}
    try:
        return Row(round(measure(), 2), reported, tolerance, **where)
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:  # one broken row must not cost the others
        return Row(None, reported, tolerance, **where, error=" ".join(str(error).split())[:500] or type(error).__name__)


def _measure(entry: Any, output: Path, opts: Sequence[str]) -> float:
    """The AP of a row on the test set of its config."""
    from detkit import model_zoo
    from detkit.checkpoint import load_weights
    from detkit.data import prepare_datasets
    from detkit.engine import Trainer, evaluate

    cfg = model_zoo.get_config(entry.name)
    cfg.merge_from_list([*opts, "OUTPUT_DIR", str(output)])
    prepare_datasets(cfg, eval_only=True)
    model = Trainer.build_model(cfg).eval()
    load_weights(model, cfg.MODEL.WEIGHTS, strict=True)
    results = evaluate(cfg, model, build_loader=Trainer.build_test_loader)
    ap = float(results[cfg.DATASETS.TEST[0]][TASKS[entry.metric]]["AP"])
    if math.isnan(ap):
        raise ValueError("not one detection passed the score threshold")
    return ap


def _hardware() -> str:
    import platform

    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()}-core {platform.machine()} CPU"
    return f"{device}, torch {torch.__version__.partition('+')[0]}"


def _remove(entry: Any) -> None:
    from detkit.checkpoint.download import cached_file
    from detkit.checkpoint.zoo import converted_file

    for path in (converted_file(entry.name), cached_file(entry.address) if entry.address else None):
        if path is not None:
            path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Row]:
    if not path.is_file():
        return {}
    try:
        return {name: Row(**row) for name, row in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError):
        sys.exit(f"error: {path} holds no results of this tool. Move it away, or name another --output.")


def _write(path: Path, rows: dict[str, Row]) -> None:
    from detkit.checkpoint import write_text_atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps({name: asdict(row) for name, row in sorted(rows.items())}, indent=1) + "\n")


def _text(row: Row) -> str:
    return f"AP {row.ap}, its source {row.reported}: {row.verdict}" if row.ap is not None else row.verdict


def _table(rows: dict[str, Row]) -> str:
    lines = ["| name | AP measured | AP of its source | verdict | date | hardware |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        ap, reported = ("" if value is None else value for value in (row.ap, row.reported))
        lines.append(f"| `{name}` | {ap} | {reported} | {row.verdict.replace('|', '/')} | {row.date} | {row.hardware} |")
    return "\n".join(lines) + "\n"


def _record(rows: dict[str, Row]) -> None:
    """Into the table that ``MODEL_ZOO.md`` is written from, and the page itself."""
    from detkit.checkpoint import write_text_atomically
    from detkit.model_zoo import page

    known = json.loads(page.RECORD.read_text(encoding="utf-8"))
    known |= {name: asdict(row) for name, row in rows.items() if row.ap is not None}
    write_text_atomically(page.RECORD, json.dumps(dict(sorted(known.items())), indent=1) + "\n")
    target = Path(__file__).parents[1] / "MODEL_ZOO.md"
    write_text_atomically(target, page.render())
    print(f"written: {page.RECORD}, {target}")


if __name__ == "__main__":
    main()
