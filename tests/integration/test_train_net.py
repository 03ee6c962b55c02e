"""The command line as users see it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detkit.checkpoint import read_checkpoint
from detkit.engine import run

TrainNet = Callable[..., subprocess.CompletedProcess]


def _assert_clean(done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "warning" not in done.stdout.lower()


def test_a_training_is_quiet_and_leaves_everything_behind(train_net: TrainNet, cfg: Any) -> None:
    done = train_net("DATALOADER.NUM_WORKERS", "1", "TEST.EVAL_PERIOD", "3")
    _assert_clean(done)
    assert len(done.stdout.splitlines()) <= 10, done.stdout
    assert re.search(r"iter: 5  total_loss: [\d.]+  loss_cls", done.stdout)
    assert re.search(r"toy, bbox: AP (nan|[\d.]+)  AP50", done.stdout)
    out = Path(cfg.OUTPUT_DIR)
    names = {path.name for path in out.iterdir()}
    assert names >= {"log.txt", "metrics.json", "config.yaml", "run.json", "results.json", "model_final.pth", "last_checkpoint"}
    assert any(name.startswith("events.out.tfevents") for name in names)
    (start,) = json.loads((out / "run.json").read_text())["starts"]
    assert start["seed"] == 1 and "--config-file" in start["command"] and start["versions"]["torch"] == torch.__version__
    assert "SEED: 1" in (out / "config.yaml").read_text()


def test_evaluation_alone_repeats_the_results_of_the_training(train_net: TrainNet, cfg: Any) -> None:
    _assert_clean(train_net("SOLVER.EMA.ENABLED", "True", "MODEL.ATSS.TEST.SCORE_THRESH", "0.0"))
    out = Path(cfg.OUTPUT_DIR)
    trained = json.loads((out / "results.json").read_text())
    weights = str(out / "model_final.pth")
    done = train_net("--eval-only", "MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(out / "again"), "MODEL.ATSS.TEST.SCORE_THRESH", "0.0")
    _assert_clean(done)
    evaluated = json.loads((out / "again" / "results.json").read_text())
    assert evaluated["results"] == trained["results"] != {}
    assert evaluated["weights"] == weights and "--eval-only" in evaluated["command"]
    assert (out / "again" / "inference" / "toy" / "coco_instances_results.json").exists()


@pytest.mark.parametrize(
    "launcher", [(), ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")], ids=["num-gpus", "torchrun"]
)
def test_two_processes_on_the_cpu(train_net: TrainNet, cfg: Any, tmp_path: Path, launcher: tuple[str, ...]) -> None:
    words = () if launcher else ("--num-gpus", "2", "--dist-url", f"file://{tmp_path / 'meeting'}")
    done = train_net(*words, launcher=launcher)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()
    assert done.stdout.count("toy, bbox: AP") == 1
    out = Path(cfg.OUTPUT_DIR)
    assert json.loads((out / "run.json").read_text())["starts"][0]["workers"] == 2
    assert (out / "log.txt.rank1").exists()


def test_no_cuda_is_said_in_one_line(command: Callable[..., list[str]], capsys: pytest.CaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    run(command("MODEL.DEVICE", "cuda", "SOLVER.MAX_ITER", "1")[2:])
    assert capsys.readouterr().out.count("There is no CUDA device: running on the CPU (MODEL.DEVICE cpu).") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("SOLVER.BASE_RL", "1"), "no config key 'SOLVER.BASE_RL'. The nearest that exists is 'SOLVER.BASE_LR'"),
        (("MODEL.WEIGHTS", "nowhere.pth"), "no checkpoint 'nowhere.pth'"),
        (("SOLVER.ACCUMULATE", "3"), "SOLVER.IMS_PER_BATCH is 4. It has to be a multiple of"),
        (("--eval-only",), "there is nothing to evaluate"),
        (("--num-gpus", "0"), "--num-gpus 0"),
        (("SOLVER.OPTIMIZER", "Lion"), "SOLVER.OPTIMIZER is 'Lion'. It has to be one of 'SGD', 'AdamW'"),
        (("MODEL.META_ARCHITECTURE", "YOLO"), "YOLO"),
    ],
)
def test_bad_input_ends_with_one_clear_line(command: Callable[..., list[str]], cfg: Any, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(command(*words)[2:])
    said = str(stopped.value)
    assert message in said and said.startswith("error: ") and "\n" not in said
    if not {"SOLVER.BASE_RL", "SOLVER.OPTIMIZER", "--num-gpus"} & set(words):  # there is no OUTPUT_DIR before there is a config
        assert "Traceback" in (Path(cfg.OUTPUT_DIR) / "log.txt").read_text()


def test_a_diverging_training_ends_with_one_clear_line(command: Callable[..., list[str]], cfg: Any, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match=r"^error: Loss is not finite at iteration \d\. worker 0: loss_.* on the images \d \(.*\.png\)"):
        run(command("SOLVER.BASE_LR", "1e20", "SOLVER.WARMUP_ITERS", "0")[2:])
    output = capsys.readouterr()
    assert "Traceback" not in output.out + output.err
    assert "Traceback" in (Path(cfg.OUTPUT_DIR) / "log.txt").read_text()
    assert list(Path(cfg.OUTPUT_DIR).glob("model_nan_iter*.pth"))


def test_an_image_that_breaks_while_training_is_named(command: Callable[..., list[str]], cfg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Path(cfg.OUTPUT_DIR).parent / "data" / "3.png"
    monkeypatch.setattr("detkit.engine.trainer.save_run_record", lambda *_, **__: image.write_bytes(b""))  # after the checks
    with pytest.raises(SystemExit, match=r"^error: .*3\.png.* cannot be used"):
        run(command("DATALOADER.NUM_WORKERS", "1")[2:])


@pytest.mark.slow
def test_bad_input_is_said_once_by_several_processes(train_net: TrainNet, tmp_path: Path) -> None:
    done = train_net("--num-gpus", "2", "--dist-url", f"file://{tmp_path / 'meeting'}", "SOLVER.IMS_PER_BATCH", "3")
    assert done.returncode == 2
    assert (done.stdout + done.stderr).count("It has to be a multiple of 2 processes") == 1
    assert "Traceback" not in done.stdout + done.stderr


def test_weights_that_fit_in_part_are_not_evaluated(command: Callable[..., list[str]]) -> None:
    run(command("SOLVER.MAX_ITER", "1")[2:])
    with pytest.raises(SystemExit, match=r"error: .*model_final\.pth fits the model only in part"):
        run(command("--eval-only", "--resume", "MODEL.ATSS.NUM_CLASSES", "4")[2:])


def test_a_terminal_shows_a_progress_bar(command: Callable[..., list[str]], environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    process = subprocess.Popen(command("TEST.EVAL_PERIOD", "3"), env=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    assert process.wait() == 0, shown.decode()
    text = shown.decode()
    assert re.search(r"6/6 \[.*loss [\d.]+, cls [\d.]+.*lr .*bbox AP", text), text
    assert re.search(r"^.*toy, bbox: AP", text, re.MULTILINE), text
    assert "total_loss:" not in text


@pytest.mark.slow
def test_sigterm_reaches_all_processes(command: Callable[..., list[str]], environment: dict[str, str], cfg: Any, tmp_path: Path) -> None:
    words = command(
        "--num-gpus", "2", "--dist-url", f"file://{tmp_path / 'meeting'}", "SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_PERIOD", "0"
    )
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = Path(cfg.OUTPUT_DIR) / "metrics.json"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "Continue with --resume" in output and "Traceback" not in output
    last = (Path(cfg.OUTPUT_DIR) / "last_checkpoint").read_text()
    assert read_checkpoint(Path(cfg.OUTPUT_DIR) / last)["iteration"] >= 19
