"""Makes ``docs/performance.md``, its pictures, and the figures in the README, of the json files in ``benchmarks/results`` alone.

python benchmarks/page.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from plots import PLOTS
from timing import RESULTS

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path("docs/performance.md")
#: columns that are shown in no table
OF_EACH_SIDE = {
    "side",
    "objects",
    "table",
    "found",
    "failed",
    "waits",
    "memory_mib",
    "kept_mb",
    "forward",
    "backward",
    "step_ms",
    "cpu_s",
    "seeds",
}
HIDDEN = re.compile(r"(.*_low|.*_high|rounds|log1p_ms|height|width|.*wall_.*|AP.+)$")
WORDS = {"cpu_ms": "ms", "of_limit": "of the limit", "parameters_m": "million parameters", "multiply_adds_g": "billion multiply-adds"}
NOT_RUN = {
    "gpu": "On a GPU: not run, none was at hand. `python benchmarks/gpu.py` takes at most ten minutes on a machine with one and writes "
    "`benchmarks/results/gpu.json`, of which this page then shows the table.",
    "matrix": "Which assigner on which head: `python benchmarks/matrix.py` trains all of them at one budget and was not run yet, but for "
    "single cells. This page then shows the table and the heat map.",
    "detectors": "Trainings beside torchvision's FCOS with the better of two learning rates for each side, three seeds: "
    "`python benchmarks/detectors.py --learning-rate-factors 1 0.5 --seeds 0 1 2` takes hours and was not run. The figures of one "
    "learning rate stand in [benchmarks](../benchmarks/README.md).",
}
INTRODUCTION = """\
# Performance

What the parts of a detector cost, beside other toolboxes in the same run, and beside the limit where there is one. This page, its pictures
and the figures of the README are made of the json files in `benchmarks/results` by `python benchmarks/page.py`; `python benchmarks/all.py`
measures them anew ([benchmarks](../benchmarks/README.md) says what each script does).

Unless a column says otherwise, figures are medians of processor time in milliseconds, in brackets the 10th and the 90th percentile. All
sides have one thread and the same settings of the C allocator, and take turns in every round. Times of the clock stand in the json files,
too. The last column is the figure of the best other toolbox in multiples of ours: above 1 ours is better.
"""


def _is_ours(side: str) -> bool:
    """Whether a side is no other toolbox: ours, a variant of it, or the limit."""
    return side.startswith(("ours", "limit"))


def page(results: Mapping[str, dict[str, Any]]) -> str:
    """The whole page."""
    parts = [INTRODUCTION, *(f"{text}\n" for name, text in NOT_RUN.items() if name not in results)]
    return "\n".join([*parts, *(_section(name, result) for name, result in results.items())]).rstrip() + "\n"


def _section(name: str, result: dict[str, Any]) -> str:
    parts = [f"## {result['title']}\n", f"{result['question'].replace('``', '`')}\n"]
    if not result["finished"]:
        parts.append("The run was interrupted: rows are missing.\n")
    for title, rows in _groups(result):
        parts += [f"### {title}\n"] if title else []
        parts.append((_compared if result["index"] and "side" in rows[0] else _listed)(rows, result) + "\n")
    parts += [f"![{alt}](images/{file})\n" for file, alt in _pictures(name)]
    return "\n".join([*parts, _source(result) + "\n"])


def _groups(result: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows of different kinds, each under its title: a row says its own in ``table``."""
    rows = sorted(result["rows"], key=lambda row: str(row.get("table", "")))
    return [(title, list(group)) for title, group in groupby(rows, key=lambda row: str(row.get("table", "")))]


def _compared(rows: Sequence[dict[str, Any]], result: dict[str, Any]) -> str:
    """A line for what was measured, a column for each side, and how the best of the others stands to ours."""
    index, value = result["index"], result["value"]
    sides = list(dict.fromkeys(row["side"] for row in rows))
    peers = [side for side in sides if not _is_ours(side)]
    shown = [key for key in rows[0] if key not in {*index, *OF_EACH_SIDE, value} and not HIDDEN.match(key)]
    columns = [key for key in index if any(key in row for row in rows)]
    lines = [[*columns, *sides, *(WORDS.get(key, key) for key in shown), *(["best other / ours"] if "ours" in sides and peers else [])]]
    for key, group in groupby(rows, key=lambda row: [row.get(name) for name in columns]):
        of = {row["side"]: row for row in group}
        times = {side: row[value] for side, row in of.items() if value in row}
        cells = ["" if each is None else str(each) for each in key]
        cells += [_cell(of[side], value) if side in of else "" for side in sides]
        cells += [_number(of.get("ours", {}).get(each)) for each in shown]
        if len(lines[0]) > len(cells):
            others = [times[side] for side in peers if side in times]
            cells.append(f"{min(others) / times['ours']:.2f}" if others and "ours" in times else "")
        lines.append(cells)
    return _table(lines)


def _listed(rows: Sequence[dict[str, Any]], result: dict[str, Any]) -> str:
    """A line for each row, with all that it holds."""
    columns = list(dict.fromkeys(key for row in rows for key in row if not HIDDEN.match(key) and key != "table"))
    lines = [[WORDS.get(key, key.replace("_", " ")) for key in columns]]
    lines += [[_measured(row, key) if key in row else "" for key in columns] for row in rows]
    return _table(lines)


def _measured(row: dict[str, Any], key: str) -> str:
    low, high = (row.get(f"{key.removesuffix('_ms')}_{end}") for end in ("low", "high"))
    note = ", fast by itself" if row.get("state") == "slow" and row.get("found") == "fast" else ""
    return _number(row[key]) + (f" ({_number(low)} to {_number(high)}{note})" if low is not None else "")


def _cell(row: dict[str, Any], value: str) -> str:
    """The figure of a side, and what else is told of each side, or why there is none."""
    if value not in row:
        return str(row.get("failed", ""))
    more = [
        f"{row[key]} {word}"
        for key, word in (("waits", "waits"), ("memory_mib", "MiB"), ("kept_mb", "MB kept"), ("step_ms", "ms"), ("cpu_s", "s"))
        if row.get(key) is not None
    ]
    return ", ".join([_measured(row, value), *more])


def _number(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    digits = 4 if 0.9 < abs(value) < 1.1 else 3  # a ratio near one lives in its thousandths
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.{digits}g}"


def _table(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])


def _pictures(name: str) -> list[tuple[str, str]]:
    return [(f"performance_{name}.png", PLOTS[name][1])] if name in PLOTS else []


def _source(result: dict[str, Any]) -> str:
    """Command, hardware, versions and date."""
    found = result["environment"]
    hardware, versions, code = found["hardware"], found["versions"], found["code"] or {}
    gpus = f", {', '.join(hardware['gpus'])}" if hardware.get("gpus") else ""
    state = f"commit {code['commit'][:10]}{' with changes' if code['changed'] else ''}" if code else "no checkout"
    load = found.get("load")
    # the benchmark itself is one of the programs that run
    busy = f", the machine busy with other work (load {load})" if load is not None and load > 1.5 else ""
    names = ", ".join(f"{key} {versions[key]}" for key in ("torch", "torchvision", "detectron2", "python") if key in versions)
    return f"`{result['command']}`; {hardware['cpu']}, {hardware['cpus']} cores{gpus}, {names}, {state}, {result['date']}{busy}."


# the README -----------------------------------------------------------------------------------------------------------------------------


def headline(results: Mapping[str, dict[str, Any]]) -> str:
    """A few figures, each with its worst case."""
    lines = []
    for name, write in HEADLINES.items():
        if name in results and (line := write(results[name]["rows"])):
            lines.append(f"- {line}")
    return "\n".join(lines)


def _ratios(rows: Sequence[dict[str, Any]], value: str, **where: Any) -> list[float]:
    """Best other side in multiples of ours, for everything that was measured with these values."""
    of: dict[str, dict[str, float]] = {}
    for row in rows:
        if all(row.get(key) == wanted for key, wanted in where.items()):
            what = json.dumps({key: row.get(key) for key in ("state", "method", "objects", "proposals", "scores")})
            of.setdefault(what, {})[row["side"]] = row[value]
    pairs = [(sides["ours"], [t for side, t in sides.items() if not _is_ours(side)]) for sides in of.values() if "ours" in sides]
    return [min(others) / ours for ours, others in pairs if others]


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def _losses_line(rows: Sequence[dict[str, Any]]) -> str:
    few, many = (_ratios(rows, "cpu_ms", state="fast", objects=count) for count in (8, 128))
    if not few or not many:
        return ""
    return (
        f"Losses with label assignment, forward and backward, are {_span(few)} times as fast as those of the fastest other toolbox at 8 "
        f"objects per image, {_span(many)} times at 128 (FCOS, ATSS, DW beside TOOD, Sparse R-CNN; CPU, one thread)."
    )


def _inference_line(rows: Sequence[dict[str, Any]]) -> str:
    worst = max(row["of_limit"] for row in rows if row["side"] == "ours")
    return f"Inference of a whole detector takes at most {worst:.3f} times its bare network (800 x 1333, ResNet-50, CPU)."


def _launches_line(rows: Sequence[dict[str, Any]]) -> str:
    waits = max(row["waits"] for row in rows if row["side"] == "ours")
    often = {0: "never", 1: "at most once"}.get(waits, f"at most {waits} times")
    return f"A training step waits {often} for what a GPU has computed (counted on CPUs, not run on a GPU)."


HEADLINES: dict[str, Callable[[Sequence[dict[str, Any]]], str]] = {
    "losses": _losses_line,
    "inference": _inference_line,
    "launches": _launches_line,
}


def with_headline(readme: str, lines: str) -> str:
    """The README with the lines between its two marks."""
    begin, end = "<!-- figures of benchmarks/page.py -->", "<!-- end of figures -->"
    before, mark, rest = readme.partition(begin)
    _, end_mark, after = rest.partition(end)
    if not mark or not end_mark:
        raise SystemExit(f"README.md lacks the lines '{begin}' and '{end}', between which the figures stand.")
    return f"{before}{begin}\n{lines}\n{end}{after}"


def read_results(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Results by name, in the order of ``all.py``; quick ones mean nothing and are left out."""
    from all import BENCHMARKS

    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    order = [*(name for name in BENCHMARKS if name in found), *(name for name in found if name not in BENCHMARKS)]
    return {name: found[name] for name in order if not found[name]["quick"]}


def main() -> None:
    results = read_results()
    for name, (draw, _) in PLOTS.items():
        if name in results:
            draw(results[name]["rows"], ROOT / "docs" / "images" / f"performance_{name}.png")
    (ROOT / PAGE).write_text(page(results))
    readme = ROOT / "README.md"
    readme.write_text(with_headline(readme.read_text(), headline(results)))
    print(f"{PAGE}: {', '.join(results) or 'nothing was measured'}")


if __name__ == "__main__":
    main()
