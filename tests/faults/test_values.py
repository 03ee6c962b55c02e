"""Values of config keys and checkpoints that cannot be, as the command line and Python meet them: one error, before any work."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detkit import Predictor
from detkit.checkpoint import read_checkpoint
from detkit.config import ConfigError
from tests.toys.detectors import tiny_cfg
from tests.toys.own_data import OwnData

from .endings import assert_ends_well, assert_goes_through

#: a key and a value that it cannot have; what the message says beside both, where that is not what the table says
VALUES: list[tuple[str, str, str]] = [
    ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "-1.0", r"in \(0, inf\)"),
    ("SOLVER.CHECKPOINT_KEEP", "-1", r"in \[0, inf\)"),
    ("SOLVER.CHECKPOINT_PERIOD", "None", "a whole number"),
    *[("SOLVER.IMS_PER_BATCH", value, r"in \[1, inf\)") for value in ("0", "-1", "None")],
    *[("SOLVER.MAX_ITER", value, r"in \[1, inf\)") for value in ("0", "-1", "None")],
    *[("SOLVER.BASE_LR", value, r"in \[0, inf\)") for value in ("-0.01", "None")],
    *[("SOLVER.BASE_LR", value, "a finite number") for value in ("nan", ".nan", "NaN", "-.inf")],
    ("SOLVER.GAMMA", "-1.0", ""),
    ("SOLVER.MOMENTUM", "-1.0", r"in \[0, 1\]"),
    ("SOLVER.WEIGHT_DECAY", "-1.0", ""),
    ("SOLVER.WEIGHT_DECAY_BIAS", "-1.0", ""),
    ("SOLVER.WARMUP_ITERS", "-4", ""),
    ("SOLVER.WARMUP_FACTOR", "2.0", ""),
    ("SOLVER.REFERENCE_BATCH_SIZE", "-1", ""),
    ("SOLVER.LR_SCHEDULER_NAME", "Foo", "one of 'WarmupMultiStepLR'"),
    ("SOLVER.STEPS", "(-3,)", ""),
    ("SOLVER.STEPS", "('a',)", ""),
    ("SOLVER.STEPS", "(3, 1)", "ascending"),
    ("SOLVER.PARAMETER_FACTORS", "[['backbone.', -1.0]]", "factors in"),
    ("SOLVER.EMA.DECAY", "1.0", r"in \[0, 1\)"),
    ("MODEL.ATSS.TEST.NMS_THRESH", "-1.0", r"in \[0, 1\]"),
    ("MODEL.ATSS.TEST.SCORE_THRESH", "2.0", r"in \[0, 1\]"),
    ("MODEL.ATSS.NUM_CLASSES", "1000000000", r"in \[1, 100000\]"),
    ("MODEL.ATSS.HEAD.CHANNELS", "0", ""),
    ("MODEL.ATSS.ANCHORS.RATIOS", "[]", "one or more numbers"),
    ("MODEL.ATSS.PLUS_ONE", "None", "True or False"),
    ("MODEL.SPARSE_RCNN.HEAD.DROPOUT", "1.0", ""),
    ("MODEL.LSNET.CONTOUR_LANDMARKS", "3", ""),
    ("MODEL.ASSIGNERS.DW.BETA", "-1.0", ""),
    ("MODEL.RESNETS.NUM_GROUPS", "0", ""),
    ("MODEL.ROI_HEADS.NMS_THRESH_TEST", "2.0", ""),
    ("MODEL.RPN.IOU_LABELS", "[0, 3, 1]", "one of -1, 0, 1"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[[32], []]", "one list of sides"),
    ("MODEL.PIXEL_MEAN", "[1e999, 1, 1]", ""),
    ("MODEL.WEIGHTS", "None", "a text"),
    ("MODEL.DEVICE", "gpu9", "a device that is here"),
    ("MODEL.DEVICE", "xla", "a device that is here"),
    ("TEST.DETECTIONS_PER_IMAGE", "0", ""),
    ("TEST.EVAL_PERIOD", "-3", ""),
    ("TEST.EXPECTED_RESULTS", "[[1]]", r"a list of \[task, metric, value, tolerance\]"),
    ("TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 'x', 1]]", r"a list of \[task, metric, value, tolerance\]"),
    ("TEST.PRECISE_BN.NUM_ITER", "0", ""),
    ("INPUT.MIN_SIZE_TRAIN", "()", "one or more"),
    ("INPUT.MIN_SIZE_TRAIN", "(-5,)", ""),
    ("INPUT.MIN_SIZE_TEST", "-5", ""),
    ("INPUT.MAX_SIZE_TRAIN", "0", ""),
    ("INPUT.MAX_SIZE_TRAIN", "1", ""),
    ("INPUT.MAX_SIZE_TEST", "1000000", r"in \[8, 32767\]"),
    ("INPUT.FORMAT", "XYZ", "one of 'BGR'"),
    ("INPUT.CROP.SIZE", "[0.9]", "2 numbers"),
    ("DATALOADER.NUM_WORKERS", "-1", ""),
    ("DATASETS.TEST", "(3,)", "a list of names"),
    ("DATASETS.NAME", "../../x", "without slashes"),
    ("OUTPUT_DIR", "None", "a folder"),
    ("SEED", "10000000000000000000000000", ""),
]


def assert_nothing_was_begun(output: Path) -> None:
    assert not output.exists() or not [path for path in output.rglob("*") if path.name != "log.txt" and path.is_file()]


@pytest.mark.parametrize(("key", "value", "allowed"), VALUES)
def test_values_that_cannot_be(own_data: OwnData, key: str, value: str, allowed: str) -> None:
    """One line with key, value and what is allowed; nothing is read or written."""
    own_data.image(1).unlink()  # an error of the data would come later
    outcome = own_data.run(key, value)
    assert_ends_well(outcome, rf"^error: (overrides: )?{key.replace('.', '[.]')} is ", allowed)
    assert_nothing_was_begun(outcome.output)


@pytest.mark.parametrize(
    ("key", "value"), [("MODEL.ATSS.TEST.SCORE_THRESH", 2.0), ("INPUT.MAX_SIZE_TEST", 0), ("SOLVER.BASE_LR", math.nan)]
)
def test_a_predictor_refuses_them_too(key: str, value: Any, tmp_path: Path) -> None:
    cfg = tiny_cfg("ATSS")
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=rf"^{key} is {value}\. It has to be"):
        Predictor(cfg, weights=tmp_path / "not_looked_for.pth")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["INPUT.CROP.ENABLED", "True", "INPUT.CROP.SIZE", "[5.0, 5.0]"], r"INPUT\.CROP\.SIZE is \[5\.0, 5\.0\].*\(0, 1\]"),
        (
            ["MODEL.ATSS.ASSIGNER", "FCOSAssigner", "MODEL.ASSIGNERS.FCOS.SIZES_OF_INTEREST", "[64]"],
            "SIZES_OF_INTEREST is .64.*2 for the 3",
        ),
        (["MODEL.ATSS.IN_FEATURES", "['p9']"], r"IN_FEATURES is \['p9'\].* p3, p4, p5"),
    ],
)
def test_values_that_do_not_fit_each_other(own_data: OwnData, words: list[str], says: str) -> None:
    assert_ends_well(own_data.run(*words), says)


def test_all_that_is_wrong_is_listed(own_data: OwnData) -> None:
    outcome = own_data.run("SOLVER.GAMMA", "-1.0", "SOLVER.MAX_ITER", "0")
    assert_ends_well(outcome, r"SOLVER\.MAX_ITER is 0", r"SOLVER\.GAMMA is -1\.0", most_lines=2)


# checkpoints ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> dict[str, bytes]:
    """Filled by the first test that trains."""
    return {}


def checkpoints(own_data: OwnData, trained: dict[str, bytes]) -> Path:
    """The folder of a run of two iterations with a checkpoint of each; its files are made once."""
    output = own_data.root / "run"
    if not trained:
        assert_goes_through(own_data.run("SOLVER.CHECKPOINT_PERIOD", "1", output=output))
        trained.update({path.name: path.read_bytes() for path in output.iterdir() if path.is_file()})
    output.mkdir(exist_ok=True)
    for name, content in trained.items():
        (output / name).write_bytes(content)
    return output


def flip(path: Path) -> None:
    """Changes a bit in the middle of the largest entry; between the entries lies padding that nobody reads."""
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda each: each.file_size)
    content = bytearray(path.read_bytes())
    lengths = content[entry.header_offset + 26 : entry.header_offset + 30]  # of the name and of what else stands before the data
    start = entry.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    content[start + entry.file_size // 2] ^= 0x40
    path.write_bytes(content)


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Writes a checkpoint anew with something of it changed."""

    def write(path: Path) -> None:
        state = read_checkpoint(path)
        change(state)
        torch.save(state, path)

    return write


def of_weights(spoil: Callable[[torch.Tensor], Any]) -> Callable[[Path], None]:
    def change(state: dict[str, Any]) -> None:
        state["model"] = {key: spoil(value) if value.is_floating_point() else value for key, value in state["model"].items()}

    return changed(change)


WEIGHTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped bit": (flip, "is damaged: its entry .* checksum"),
    "nan": (of_weights(lambda value: value * math.nan), "NaN or infinite"),
    "infinite": (of_weights(lambda value: torch.full_like(value, math.inf)), "NaN or infinite"),
    "int8": (of_weights(lambda value: value.to(torch.int8)), "is of torch.int8"),
    "sparse": (of_weights(torch.Tensor.to_sparse), "a sparse tensor"),
    "a key that is a number": (changed(lambda state: state["model"].update({3: torch.zeros(1)})), "The key 3 of the checkpoint"),
    "no weights": (changed(lambda state: state.update(model={})), "holds no weights"),
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("case", WEIGHTS)
@pytest.mark.parametrize("flags", [(), ("--eval-only",)], ids=["train", "evaluate"])
def test_weights_that_cannot_be_used(own_data: OwnData, trained: dict[str, bytes], case: str, flags: tuple[str, ...]) -> None:
    spoil, says = WEIGHTS[case]
    path = checkpoints(own_data, trained) / "model_final.pth"
    spoil(path)
    outcome = own_data.run("MODEL.WEIGHTS", str(path), flags=flags)
    assert_ends_well(outcome, r"model_final\.pth", says)
    assert_nothing_was_begun(outcome.output)


RESUMED: dict[str, Callable[[Path], None]] = {
    "a flipped bit": flip,
    "nan": WEIGHTS["nan"][0],
    "nan in the momentum": changed(lambda state: state["optimizer"]["state"][0]["momentum_buffer"].fill_(math.nan)),
    "weights alone": changed(lambda state: [state.pop(key) for key in list(state) if key != "model"]),
}


@pytest.mark.parametrize("case", RESUMED)
def test_a_resumed_run_takes_the_checkpoint_before(own_data: OwnData, trained: dict[str, bytes], case: str) -> None:
    output = checkpoints(own_data, trained)
    RESUMED[case](output / "model_final.pth")
    outcome = own_data.run(flags=("--resume",), output=output)
    assert_goes_through(
        outcome, r"model_final\.pth is broken|Passed over model_final\.pth", r"Resuming after iteration 0 from .*model_0000000\.pth"
    )


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("iteration", -5, "its 'iteration' is -5"),
        ("seed", "x", "its 'seed' is 'x'"),
        ("config", 3, "its 'config' is 3"),
        ("optimizer", None, "holds no 'optimizer'"),
    ],
)
def test_what_no_run_has_written_is_not_resumed(own_data: OwnData, trained: dict[str, bytes], key: str, value: Any, says: str) -> None:
    output = checkpoints(own_data, trained)
    changed(lambda state: state.update({key: value}))(output / "model_final.pth")
    assert_ends_well(own_data.run(flags=("--resume",), output=output), says)


def test_a_changed_config_is_named_key_by_key(own_data: OwnData, trained: dict[str, bytes]) -> None:
    output = checkpoints(own_data, trained)
    outcome = own_data.run("SOLVER.BASE_LR", "0.5", "SOLVER.MAX_ITER", "3", flags=("--resume",), output=output)
    assert_goes_through(outcome, "goes on with another config", r"SOLVER\.BASE_LR changed from 0\.001 to 0\.5: applies from here on")
    other = own_data.run("SOLVER.OPTIMIZER", "AdamW", "SOLVER.MAX_ITER", "4", flags=("--resume",), output=output)
    assert_ends_well(other, "SOLVER.OPTIMIZER was 'SGD' and is 'AdamW'")


# trainings that diverge -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "kept"), [("1e30", []), ("1e5", None)])
@pytest.mark.parametrize("ema", ["False", "True"], ids=["plain", "average"])
def test_a_training_that_diverges_leaves_no_result(own_data: OwnData, rate: str, kept: list[str] | None, ema: str) -> None:
    """At a rate that is far too high; in its last iteration, too."""
    words = ["SOLVER.BASE_LR", rate, "SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.CHECKPOINT_KEEP", "1", "SOLVER.MAX_ITER", "8"]
    outcome = own_data.run(*words, "SOLVER.EMA.ENABLED", ema)
    assert_ends_well(outcome, r"diverged: after \d+ iterations .* not finite|not finite at iteration|NaN or infinite")
    assert not (outcome.output / "model_final.pth").exists() and not (outcome.output / "results.json").exists()
    left = sorted(path.name for path in outcome.output.glob("model_0*.pth"))
    assert left == kept if kept is not None else len(left) <= 1
    for name in left:
        assert all(value.isfinite().all() for value in read_checkpoint(outcome.output / name)["model"].values())


@pytest.mark.parametrize("name", ["coco_mine", "coco_2017", "keypoints_coco_2014"])
def test_boxes_are_checked_whatever_own_data_is_called(own_data: OwnData, name: str) -> None:
    own_data.content["annotations"][0]["bbox"] = [4, 6, -20, 18]
    assert_ends_well(own_data.run("DATASETS.NAME", name), "negative size", "ON_BAD_BOX", most_lines=5)
    assert_goes_through(own_data.run("DATASETS.NAME", name, "DATASETS.ON_BAD_BOX", "fix"))


def test_a_start_that_fails_leaves_no_corrected_copy(own_data: OwnData) -> None:
    own_data.content["annotations"][0]["bbox"] = [4, 6, -20, 18]
    fix = ("DATASETS.ON_BAD_BOX", "fix")
    failed = own_data.run(*fix, "MODEL.WEIGHTS", "missing.pth")
    assert_ends_well(failed, "missing.pth")
    assert_nothing_was_begun(failed.output)
    went = own_data.run(*fix)
    assert_goes_through(went)
    assert sorted(path.name for path in (went.output / "datasets").iterdir()) == ["custom_train.json", "custom_val.json"]
