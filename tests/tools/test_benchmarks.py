"""How benchmarks measure and write, the page that is made of their results, and that they run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_an_interrupted_run_goes_on_and_a_finished_one_begins_anew(benchmark, tmp_path):
    timing, path = benchmark("timing"), tmp_path / "result.json"

    def run(*, stop: bool):
        with timing.Report("Title", "Question?", path) as report:
            kept = len(report.rows)
            if not report.has(objects=8):
                report.add(objects=8, side="ours", cpu_ms=2.0)
            if stop:
                raise KeyboardInterrupt
        return kept

    with pytest.raises(KeyboardInterrupt):
        run(stop=True)
    assert not json.loads(path.read_text())["finished"]
    assert run(stop=False) == 1
    assert json.loads(path.read_text())["finished"]
    assert run(stop=False) == 0


def test_sides_take_turns_and_warming_up_does_not_count(benchmark):
    timing, order = benchmark("timing"), []

    def side(name: str, times: list[float]):
        left = iter(times)

        def sample():
            order.append(name)
            return timing.Sample(next(left), 0.0)

        return sample

    samples = timing.alternate({"a": side("a", [9, 1, 2, 3]), "b": side("b", [9, 4, 5, 6])}, rounds=3)
    assert order == ["a", "b"] * 4
    assert timing.figures(samples["b"])["cpu_ms"] == 5000 and timing.figures(samples["a"])["rounds"] == 3


def result(rows, **more):
    environment = {"versions": {"torch": "2"}, "code": None, "hardware": {"cpu": "A CPU", "cpus": 2, "gpus": []}, "load": 0.5}
    head = {"title": "Losses", "question": "How long?", "command": "python benchmarks/losses.py", "date": "2026-11-28", "quick": False}
    return {**head, "finished": True, "environment": environment, "index": ["method"], "value": "cpu_ms", "rows": rows, **more}


def test_the_page_compares_ours_with_the_best_of_the_others(benchmark):
    page = benchmark("page")
    times = {"ours": 20.0, "ours, other": 1.0, "limit": 10.0, "torchvision": 50.0, "mmdetection": 40.0}
    rows = [{"method": "FCOS", "side": side, "cpu_ms": time, "cpu_low": time - 1, "cpu_high": time + 1} for side, time in times.items()]
    rows.append({"method": "ATSS", "side": "ours", "failed": "out of memory"})
    text = page.page({"losses": result(rows)})
    assert "| FCOS | 20 (19 to 21) | 1 (0 to 2) | 10 (9 to 11) | 50 (49 to 51) | 40 (39 to 41) | 2.00 |" in text
    assert "| ATSS | out of memory |" in text
    assert "`python benchmarks/losses.py`; A CPU, 2 cores, torch 2, no checkout, 2026-11-28." in text
    assert "On a GPU: not run" in text and "On a GPU: not run" not in page.page({"gpu": result(rows)})


def test_the_page_lists_rows_that_compare_no_sides(benchmark):
    rows = [{"name": "a", "cpu_ms": 1234.5}, {"name": "b", "mib": 3}]
    assert "| name | ms | mib |\n| --- | --- | --- |\n| a | 1234 |  |\n| b |  | 3 |" in benchmark("page").page(
        {"x": result(rows, index=[])}
    )


def test_figures_of_quick_runs_are_left_out(benchmark, tmp_path):
    for name, quick in (("losses", True), ("inference", False)):
        (tmp_path / f"{name}.json").write_text(json.dumps(result([], quick=quick)))
    assert list(benchmark("page").read_results(tmp_path)) == ["inference"]


def test_the_readme_gets_its_figures_between_two_marks(benchmark):
    page = benchmark("page")
    readme = (ROOT / "README.md").read_text()
    once = page.with_headline(readme, "- A figure.")
    assert "- A figure." in once and page.with_headline(once, "- Another.") == page.with_headline(readme, "- Another.")
    with pytest.raises(SystemExit, match="README.md lacks the lines"):
        page.with_headline("# Nothing", "")


def test_page_and_pictures_are_those_of_the_results(benchmark):
    page = benchmark("page")
    results = page.read_results()
    assert (ROOT / page.PAGE).read_text() == page.page(results), "python benchmarks/page.py makes docs/performance.md anew"
    assert page.headline(results) in (ROOT / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, options",
    [
        ("losses", ["--methods", "FCOS", "--sides", "ours", "torchvision", "Detectron2"]),
        ("gpu", ["--device", "cpu", "--methods", "FCOS", "--minutes", "1"]),
    ],
)
def test_benchmarks_run(name, options, tmp_path):
    path = tmp_path / "result.json"
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--quick", "--json", str(path), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert not done.returncode, done.stderr
    written = json.loads(path.read_text())
    assert written["finished"] and written["quick"]
    # the others may have no compiler, or a peer that fails in mixed precision
    plain = [row for row in written["rows"] if row.get("precision", "float32") == "float32" and not row.get("compiled")]
    measured = {row["side"]: row for row in plain if row["method"] == "FCOS"}
    assert {"ours", "torchvision", "Detectron2"} <= set(measured)
    assert all(row["wall_ms"] > 0 for row in measured.values())
