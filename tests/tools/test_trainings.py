"""Benchmarks that train: cells are kept, fail with a reason, go on where they were cut off; the matrix takes all that is registered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from detectron2.layers import ShapeSpec

from detkit import get_config_file
from detkit.assigners import ASSIGNER_REGISTRY, FCOSAssigner
from detkit.config import check_config, get_cfg, method_node
from detkit.dense.heads import DENSE_HEAD_REGISTRY
from detkit.dense.parts import head_parts_from_config
from tests.toys.datasets import make_toy_data

ROOT = Path(__file__).parents[2]


@pytest.fixture
def trainings(benchmark: Any) -> ModuleType:
    return benchmark("trainings")


@pytest.fixture
def matrix(benchmark: Any) -> ModuleType:
    return benchmark("matrix")


# what is kept ---------------------------------------------------------------------------------------------------------------------------


def test_a_second_start_repeats_nothing_and_runs_what_is_missing(trainings: ModuleType, tmp_path: Path) -> None:
    begun: list[str] = []

    def measure(name: str, what: dict[str, Any]) -> dict[str, Any]:
        begun.append(name)
        if name == "b" and begun.count("b") == 1:
            raise KeyboardInterrupt
        return {"AP": what["seed"] + 0.5}

    cells = {name: {"seed": number} for number, name in enumerate("abc")}
    with pytest.raises(KeyboardInterrupt):
        trainings.Trainings(tmp_path, {}).collect(cells, measure)
    runs = trainings.Trainings(tmp_path, {}).collect(cells, measure)
    assert begun == ["a", "b", "b", "c"]
    assert [(run["seed"], run["AP"]) for run in runs] == [(0, 0.5), (1, 1.5), (2, 2.5)]
    assert trainings.Trainings(tmp_path, {}).collect(cells, measure) == runs and len(begun) == 4


def test_a_cell_that_fails_is_kept_with_its_reason_until_it_is_retried(trainings: ModuleType, tmp_path: Path) -> None:
    faulty = [True]

    def measure(name: str, what: dict[str, Any]) -> dict[str, Any]:
        if name == "a" and faulty[0]:
            raise ValueError("Of two\nlines.")
        return {"AP": 1.0}

    cells: dict[str, Any] = {"a": {}, "b": {}}
    first, second = trainings.Trainings(tmp_path, {}).collect(cells, measure)
    assert first["failed"] == "Of two lines." and second["AP"] == 1.0
    faulty.clear(), faulty.append(False)
    assert trainings.Trainings(tmp_path, {}).collect(cells, measure)[0] == first
    assert trainings.Trainings(tmp_path, {}, retry=True).collect(cells, measure)[0]["AP"] == 1.0


def test_a_cell_that_another_process_has_is_left_to_it(trainings: ModuleType, tmp_path: Path) -> None:
    def measure(name: str, what: dict[str, Any]) -> dict[str, Any]:
        if name == "a":
            raise trainings.NotNowError("Another run is using it.")
        return {"AP": 1.0}

    assert len(trainings.Trainings(tmp_path, {}).collect({"a": {}, "b": {}}, measure)) == 1
    assert not (tmp_path / "a.json").exists()


def test_no_cell_begins_when_the_hours_are_over(trainings: ModuleType, tmp_path: Path) -> None:
    assert trainings.Trainings(tmp_path, {}, hours=0).collect({"a": {}}, lambda name, what: {"AP": 1.0}) == []


def test_a_folder_of_another_budget_is_refused(trainings: ModuleType, tmp_path: Path) -> None:
    trainings.Trainings(tmp_path, {"iterations": 100})
    with pytest.raises(SystemExit, match=r"iterations 100 there, 200 here\. Name another folder by --output"):
        trainings.Trainings(tmp_path, {"iterations": 200})


def test_each_side_takes_its_better_learning_rate(trainings: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = Namespace(seeds=[0, 1], methods=["fcos"], learning_rate_factors=[1.0, 0.5])
    ap = {(0, 1.0): 10.0, (1, 1.0): 20.0, (0, 0.5): 30.0, (1, 0.5): 20.0}
    cells = trainings.method_cells(args)
    runs = trainings.Trainings(tmp_path, {}).collect(cells, lambda name, what: {"AP": ap[what["seed"], what["factor"]]})
    capsys.readouterr()
    trainings.print_table(runs, ["fcos"], ["AP"])
    best, other = capsys.readouterr().out.splitlines()
    assert "25.0" in best and "0.5 times its learning rate, the better one" in best and "15.0" in other


def test_a_run_that_finds_nothing_has_an_average_precision_of_zero(trainings: ModuleType, capsys: Any) -> None:
    """COCO's is null where there is no detection."""
    run = {"method": "fcos", "factor": 1.0, "seconds": 60.0}
    trainings.print_table([{**run, "seed": 0, "AP": None}, {**run, "seed": 1, "AP": 10.0}], ["fcos"], ["AP"])
    assert "5.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "said, reason",
    [
        ("a warning\nerror: SOLVER.X is no key.\n", "SOLVER.X is no key."),
        ('Traceback:\n  File "a.py"\nValueError: no such thing\n', "ValueError: no such thing"),
        ("", "it said nothing"),
    ],
)
def test_the_reason_of_a_process_is_one_line(trainings: ModuleType, said: str, reason: str) -> None:
    assert trainings._reason(said) == reason


# the matrix -----------------------------------------------------------------------------------------------------------------------------


def test_the_matrix_has_what_is_registered(matrix: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnAssigner(FCOSAssigner):
        pass

    monkeypatch.setitem(ASSIGNER_REGISTRY._obj_map, "OwnAssigner", OwnAssigner)
    monkeypatch.setitem(DENSE_HEAD_REGISTRY._obj_map, "OwnHead", object)
    assert {"Own", "DW", "PAA", "MuSu"} <= set(matrix.all_assigners()) and "Hungarian" not in matrix.all_assigners()
    assert matrix.all_heads()["OwnHead"].keys == {"HEAD.NAME": "OwnHead"}


def test_every_cell_is_a_detector(matrix: ModuleType) -> None:
    levels = [ShapeSpec(channels=64, stride=8 * 2**level) for level in range(5)]
    for head in matrix.all_heads().values():
        base = get_cfg()
        base.merge_from_file(str(ROOT / "configs" / "quick" / f"{head.method.lower()}_mobilenetv2.yaml"))
        for assigner in matrix.all_assigners():
            cfg = base.clone()
            cfg.merge_from_list([part for item in matrix.cell_keys(head, assigner).items() for part in item])
            parts = head_parts_from_config(cfg, method_node(cfg), levels, num_classes=8)
            assert type(parts["assigner"]).__name__.startswith(assigner)


def test_the_schedule_is_the_configs_at_their_own_length(matrix: ModuleType) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / "configs" / "quick" / "fcos_mobilenetv2.yaml"))
    before = cfg.SOLVER.clone()
    cfg.merge_from_list([part for item in matrix.budget_keys(300).items() for part in item])
    assert cfg.SOLVER == before


def test_one_iteration_has_no_steps(matrix: ModuleType) -> None:
    assert [matrix.budget_keys(number)["SOLVER.STEPS"] for number in (1, 2, 10)] == ["()", "(1,)", "(6, 9)"]


def test_cells_of_another_validation_set_or_config_are_not_taken(
    matrix: ModuleType, trainings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = dict.fromkeys(matrix.METRICS, 1.0)
    monkeypatch.setattr(trainings.Trainings, "train", lambda *_: {"bbox": metrics, "step_ms": 1, "cpu_s": 1.0})
    files = ["--train-json", "a/annotations/train.json", "--output", str(tmp_path / "cells"), "--json", str(tmp_path / "matrix.json")]

    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["matrix.py", "--heads", "FCOS", "--assigners", "PAA", *files, *words])
        matrix.main()

    run("--val-json", "a/annotations/val.json")
    run("--val-json", "a/annotations/val.json")
    with pytest.raises(SystemExit, match=r"holds trainings of other settings: val_json 'a/annotations/val.json' there"):
        run("--val-json", "a/annotations/test.json")
    monkeypatch.setitem(matrix.HEADS, "FCOS", matrix.HEADS["FCOS"]._replace(keys={"HEAD.NUM_CONVS": 1}))
    with pytest.raises(SystemExit, match=r"FCOS_PAA_0\.json is of other keys"):
        run("--val-json", "a/annotations/val.json")


def run_of(assigner: str, head: str, seed: int, ap: float | None) -> dict[str, Any]:
    what = {"assigner": assigner, "head": head, "seed": seed}
    if ap is None:
        return {**what, "failed": "no memory"}
    on_cpu = {"step_ms": 100, "cpu_s": 80.0 + 20 * seed, "environment": {"hardware": {"gpus": []}}}
    return {**what, **on_cpu, **dict.fromkeys(("AP50", "AP75", "APs", "APm", "APl"), 1.0), "AP": ap}


def test_rows_have_the_spread_of_the_seeds_and_the_reason_of_a_failure(matrix: ModuleType, benchmark: Any, tmp_path: Path) -> None:
    runs = [run_of("ATSS", "FCOS", 0, 10.0), run_of("PAA", "FCOS", 0, 20.0), run_of("PAA", "FCOS", 1, 30.0), run_of("ATSS", "DW", 0, None)]
    rows = matrix.rows_of(runs)
    assert [(row["assigner"], row["side"]) for row in rows] == [("PAA", "FCOS"), ("ATSS", "FCOS"), ("ATSS", "DW")]
    assert (rows[0]["AP"], rows[0]["AP_low"], rows[0]["AP_high"]) == (25.0, 20.0, 30.0) and "AP_low" not in rows[1]
    table = benchmark("page")._compared(rows, {"index": ["assigner"], "value": "AP"})
    assert table.splitlines()[2:] == ["| PAA | 25 (20 to 30), 90 s |  |", "| ATSS | 10, 80 s | no memory |"]
    picture = tmp_path / "matrix.png"
    benchmark("plots").heat_map(rows, picture)
    assert picture.stat().st_size > 1000


def start(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    """The matrix on the toy data, one cell, small images."""
    data = tmp_path / "data"
    if not data.exists():
        make_toy_data(data)
    files = ["--train-json", str(data / "toy.json"), "--val-json", str(data / "toy.json")]
    small = ["--keys", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "2"]
    command = [sys.executable, str(ROOT / "benchmarks" / "matrix.py"), "--heads", "FCOS", "--assigners", "PAA"]
    paths = ["--output", str(tmp_path / "cells"), "--json", str(tmp_path / "matrix.json")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))}
    return subprocess.Popen(
        [*command, *files, *paths, *small, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
def test_a_cell_runs(tmp_path: Path) -> None:
    process = start(tmp_path, "--quick")
    shown, _ = process.communicate(timeout=300)
    assert not process.returncode, shown
    result = json.loads((tmp_path / "matrix.json").read_text())
    (row,) = result["rows"]
    assert result["finished"] and (row["assigner"], row["side"]) == ("PAA", "FCOS") and 0 <= row["AP"] <= 100, shown


@pytest.mark.slow
def test_a_cell_that_is_cut_off_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    words = ("--iterations", "120")
    process, cell = start(tmp_path, *words), tmp_path / "cells" / "FCOS_PAA_0"
    deadline = time.monotonic() + 120
    while not (cell / "last_checkpoint").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, shown
    assert not cell.with_suffix(".json").exists() and not (cell / "model_final.pth").exists()
    again = start(tmp_path, *words)
    shown, _ = again.communicate(timeout=300)
    assert not again.returncode, shown
    assert "Resuming after iteration" in (cell / "log.txt").read_text()
    assert json.loads((tmp_path / "matrix.json").read_text())["finished"] and json.loads(cell.with_suffix(".json").read_text())["AP"] >= 0


@pytest.mark.slow
def test_a_cell_that_cannot_train_says_why(tmp_path: Path) -> None:
    process = start(tmp_path, "--quick", "--keys", "SOLVER.OWN_KEY", "1")
    shown, _ = process.communicate(timeout=120)
    (row,) = json.loads((tmp_path / "matrix.json").read_text())["rows"]
    assert "SOLVER.OWN_KEY" in row["failed"] and "AP" not in row, shown


def test_what_was_kept_of_other_keys_is_not_taken(trainings: ModuleType, tmp_path: Path) -> None:
    folder = trainings.Trainings(tmp_path, {})
    folder.collect({"a": {"seed": 0, "keys": "old"}}, lambda *_: {"AP": 1.0})
    with pytest.raises(SystemExit, match=r"a\.json is of other keys than it would have now"):
        folder.collect({"a": {"seed": 0, "keys": "new"}}, lambda *_: {"AP": 2.0})


# recipes --------------------------------------------------------------------------------------------------------------------------------


def test_recipes_change_keys_that_there_are_to_values_that_are_allowed(benchmark: Any) -> None:
    for config, changes in benchmark("recipes").runs().values():
        cfg = get_cfg()
        cfg.merge_from_file(get_config_file(f"quick/{config}.yaml"))
        before = cfg.dump()
        cfg.merge_from_list([str(part) for item in changes.items() for part in item])
        check_config(cfg)
        assert (cfg.dump() == before) is (not changes)


def test_a_factor_of_the_rate_holds_for_changes_of_the_rate_too(trainings: ModuleType) -> None:
    args = Namespace(train_json=None, val_json=None)
    cell = {"seed": 1, "factor": 0.5}
    of_config = trainings.method_changes("sparsercnn_mobilenetv2", cell, args)
    changed = trainings.method_changes("sparsercnn_mobilenetv2", cell, args, {"SOLVER.BASE_LR": 0.002, "SOLVER.MAX_ITER": 7})
    assert changed == of_config | {"SOLVER.BASE_LR": 0.001, "SOLVER.MAX_ITER": 7}
    assert of_config["SOLVER.BASE_LR"] != 0.001


def test_recipes_differ_by_their_digest(trainings: ModuleType, benchmark: Any) -> None:
    of_runs = [trainings.digest(config, changes) for config, changes in benchmark("recipes").runs().values()]
    assert len(set(of_runs)) == len(of_runs) > 20
