"""A worker or a data worker that is killed or stopped; an address that cannot be used."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import HookBase
from torch.utils.data import DataLoader

from detkit.checkpoint import read_checkpoint
from detkit.data import DataError
from detkit.engine import Trainer
from detkit.engine.data_workers import DataWorkerLostError, watched_batches
from detkit.engine.elastic import fit_batch_to_workers, is_restart
from detkit.engine.exits import ExitCode
from detkit.engine.launch import LaunchError, launch
from detkit.engine.peers import PeerWatch
from detkit.engine.whole_state import WholeState
from tests.toys.own_data import OwnData

from .endings import assert_ends_well
from .processes import Run, children_of

# data workers --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signum", "says"),
    [(signal.SIGKILL, r"ended by SIGKILL \(out of memory\?\).*NUM_WORKERS"), (signal.SIGSTOP, r"was stopped, as by SIGSTOP\.$")],
)
def test_a_data_worker_that_is_lost_is_named(signum: int, says: str) -> None:
    before = set(children_of(os.getpid()))
    batches = watched_batches(DataLoader(list(range(1000)), num_workers=1), patience=0.5)
    next(batches)
    (worker,) = set(children_of(os.getpid())) - before
    os.kill(worker, signum)
    with pytest.raises(DataWorkerLostError, match=rf"Data worker 0 \(process {worker}\) on {socket.gethostname()} .*{says}"):
        for _ in batches:
            pass


class _Slow(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        time.sleep(0.7)
        return index


def test_a_slow_data_worker_is_waited_for() -> None:
    assert len(list(watched_batches(DataLoader(_Slow(), num_workers=1), patience=0.2))) == 2


# what is saved -------------------------------------------------------------------------------------------------------------------------


class _Fault(HookBase):
    """In the middle of iteration 4, when the moving averages of the batch normalization have changed."""

    def before_step(self) -> None:
        if self.trainer.iter == 4:
            self.trainer.training_step.model.register_forward_hook(self._fail)

    def _fail(self, *_: Any) -> None:
        raise DataError("no picture")


def test_an_error_saves_the_last_whole_iteration(cfg: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.DATASETS.TEST = 0, ()
    broken = Trainer(cfg)
    broken.register_hooks([_Fault()])
    with pytest.raises(DataError, match="no picture"):
        broken.train()
    assert [path.name for path in Path(cfg.OUTPUT_DIR).glob("*.pth")] == ["model_0000003.pth"]
    shown = capsys.readouterr()
    assert "Saved the state after iteration 3. Continue with --resume." in shown.err and "eta:" not in shown.out + shown.err
    assert json.loads((Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()[-1])["iteration"] >= 3
    resumed = Trainer(cfg)
    resumed.resume_or_load(resume=True)
    resumed.train()
    cfg.OUTPUT_DIR = str(tmp_path / "whole")
    Trainer(cfg).train()
    states = [read_checkpoint(Path(folder) / "model_final.pth") for folder in (resumed.cfg.OUTPUT_DIR, cfg.OUTPUT_DIR)]
    torch.testing.assert_close(*({key: state[key] for key in ("model", "optimizer", "iteration")} for state in states), rtol=0, atol=0)


def test_statistics_of_a_step_that_was_not_done_are_not_saved() -> None:
    model = torch.nn.BatchNorm1d(2)
    state = WholeState(model)
    state.begin(6)
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    changed = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with state.held() as iteration:
        assert iteration == 6
        torch.testing.assert_close(dict(model.named_buffers()), kept, rtol=0, atol=0)
    torch.testing.assert_close(dict(model.named_buffers()), changed, rtol=0, atol=0)


def test_weights_that_are_being_changed_are_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detkit.engine.whole_state._SHORT", 0.05)
    state = WholeState(torch.nn.Linear(1, 1))
    state.begin(6)
    state.changing()
    with state.held() as iteration:
        assert iteration is None
    state.completed(7)
    with state.held() as iteration:
        assert iteration == 7


# workers -------------------------------------------------------------------------------------------------------------------------------


class _Store(dict):
    """What a watch uses of torch's stores, in one process."""

    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self[key] for key in keys]

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        return self.setdefault(key, value.encode())

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)

    def wait(self, keys: list[str]) -> None:
        assert self.check(keys)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> PeerWatch:
    """Of worker 1 of three; worker 2 runs on another machine."""
    monkeypatch.setattr(PeerWatch, "_show_life", lambda self: None)
    monkeypatch.setattr(PeerWatch, "_watch", lambda self: None)
    monkeypatch.setattr("detkit.engine.peers.process_state", lambda pid: {5: "S", 7: "S"}.get(pid, ""))
    store = _Store()
    watch = PeerWatch(store, rank=1, world_size=3, patience=60.0)
    for rank, space in ((0, watch._me.space), (2, "another")):
        store.set(f"who/{rank}", json.dumps({"host": f"host{rank}", "pid": 5 + rank, "space": space}))
        store.set(f"beat/{rank}", "3:9")
    watch.start()
    watch._beats = dict.fromkeys(range(3), ("3:9", 100.0))
    watch._answered = 100.0
    return watch


def _answering(watch: PeerWatch, now: float) -> None:
    watch._answered = now


def test_workers_that_show_life_are_not_lost(watch: PeerWatch) -> None:
    _answering(watch, 159.0)
    assert watch._find_lost(159.0) is None
    watch._beats[0] = watch._beats[2] = ("done", 0.0)  # they have ended well, whenever
    _answering(watch, 1000.0)
    assert watch._find_lost(1000.0) is None


def test_a_process_of_this_machine_that_is_gone_is_lost_at_once(watch: PeerWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detkit.engine.peers.process_state", lambda pid: "Z" if pid == 5 else "S")
    _answering(watch, 104.0)
    assert watch._find_lost(101.0) is None  # it may have said why
    found = watch._find_lost(104.0)
    assert (found["lost"], found["code"]) == (0, ExitCode.PEER_LOST) and "without a word" in found["why"]


@pytest.mark.parametrize(("rank", "state", "says"), [(0, "T", "stopped, as by SIGSTOP"), (2, "", "or its machine or network is gone")])
def test_who_does_not_answer_is_lost_after_the_patience(
    watch: PeerWatch, monkeypatch: pytest.MonkeyPatch, rank: int, state: str, says: str
) -> None:
    monkeypatch.setattr("detkit.engine.peers.process_state", lambda pid: state if pid == 5 + rank else "S")
    _answering(watch, 161.0)
    watch._beats = {each: ("4:9", 160.0 if each != rank else 100.0) for each in range(3)}
    assert watch._find_lost(159.5) is None
    found = watch._find_lost(161.0)
    assert found["lost"] == rank and says in found["why"] and "60 s" in found["why"]


def test_a_store_that_does_not_answer_is_named(watch: PeerWatch) -> None:
    assert "has not answered for 60 s" in watch._find_lost(161.0)["why"]
    watch._answered, watch._refused = 160.0, 150.0
    watch._beats = dict.fromkeys(range(3), ("4:9", 160.0))
    assert "is gone" in watch._find_lost(161.0)["why"]


def test_the_first_finding_counts_and_the_first_that_lives_speaks(watch: PeerWatch) -> None:
    assert watch._propose({"code": 7, "lost": 2, "why": "a"})["lost"] == 2
    assert watch._propose({"code": 7, "lost": 0, "why": "b"})["lost"] == 2
    assert not watch.claim_end(ExitCode.DATA)
    assert watch._speaks_for(0) and not watch._speaks_for(2)  # worker 0 lives


def test_one_worker_says_an_error_of_all(watch: PeerWatch) -> None:
    assert watch.claim_end(ExitCode.DATA) and watch.claim_end(ExitCode.DATA)
    assert json.loads(watch._store["end"]) == {"code": 3, "speaker": 1}


def test_addresses_that_cannot_be_used_are_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LaunchError, match=rf"port {port} is in use.*--dist-url auto"):
            launch(sorted, 2, device="cpu", dist_url=f"tcp://127.0.0.1:{port}")
    with pytest.raises(LaunchError, match="auto is for one machine"):
        launch(sorted, 1, num_machines=2, device="cpu", dist_url="auto")
    for address in ("tcp://127.0.0.1", "tcp://127.0.0.1:99999", "ftp://a:1"):
        with pytest.raises(LaunchError, match=r"give tcp://HOST:PORT"):
            launch(sorted, 2, device="cpu", dist_url=address)


def test_more_workers_than_devices_are_refused_in_one_line(own_data: OwnData) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    assert_ends_well(
        own_data.run("MODEL.DEVICE", "cuda", flags=("--num-gpus", "8")), "no CUDA device.*MODEL.DEVICE cpu", code=ExitCode.CONFIG
    )


# elastic -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "batch", "parts", "expected"),
    [(4, 16, 1, (16, 1, 1.0)), (2, 16, 1, (16, 2, 1.0)), (1, 16, 1, (16, 4, 1.0)), (3, 16, 1, (15, 5, 15 / 16)), (2, 16, 2, (16, 2, 1.0))],
)
def test_fewer_workers_keep_the_batch(
    cfg: Any, monkeypatch: pytest.MonkeyPatch, workers: int, batch: int, parts: int, expected: tuple[int, int, float]
) -> None:
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"starts": [{"run": "a", "workers": 4, "images_per_part": 4, "job": "j"}]}))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "j")
    monkeypatch.setattr("detkit.engine.elastic.get_world_size", lambda: workers)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE, cfg.SOLVER.BASE_LR = batch, parts, 1.0
    fit_batch_to_workers(cfg)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE, cfg.SOLVER.BASE_LR) == expected


def test_workers_that_torchrun_starts_again_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"starts": [{"run": "a", "job": "j"}]}))
    assert not is_restart(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "j")
    assert is_restart(tmp_path) and not is_restart(tmp_path / "other")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert not is_restart(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert is_restart(tmp_path / "other")


# whole command lines -------------------------------------------------------------------------------------------------------------------

#: who, signal, number of processes, what the message says
LOST = [
    (0, signal.SIGKILL, 2, r"worker 0 of 2 \(process \d+ on .*\) was ended by SIGKILL \(out of memory\?\)"),
    (1, signal.SIGKILL, 2, r"worker 1 of 2 \(process \d+ on .*\) was ended by SIGKILL \(out of memory\?\)"),
    (0, signal.SIGSTOP, 2, r"worker 0 of 2 .*no sign of life for 5 s \(it is stopped, as by SIGSTOP\)"),
    (1, signal.SIGSTOP, 2, r"worker 1 of 2 .*no sign of life for 5 s \(it is stopped, as by SIGSTOP\)"),
    ("data", signal.SIGKILL, 1, r"Data worker 0 .*was ended by SIGKILL"),
    ("data", signal.SIGSTOP, 1, r"Data worker 0 .*was stopped, as by SIGSTOP"),
    ("data", signal.SIGSTOP, 2, r"Data worker 0 .*was stopped, as by SIGSTOP"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("who", "signum", "processes", "says"), LOST)
def test_all_end_with_one_message_and_a_checkpoint(own_data: OwnData, who: int | str, signum: int, processes: int, says: str) -> None:
    words = (
        "SOLVER.MAX_ITER",
        "100000",
        "PATIENCE",
        "5.0",
        "SOLVER.CHECKPOINT_PERIOD",
        "5",
        "DATALOADER.NUM_WORKERS",
        str(int(who == "data")),
    )
    run = Run(own_data.start(*words, flags=("--num-gpus", str(processes)) if processes > 1 else ()))
    run.wait_for_checkpoint()
    victim = run.data_workers()[0] if who == "data" else run.workers()[who]
    workers = run.workers()
    os.kill(victim, signum)
    outcome = run.started.end()
    assert_ends_well(outcome, says, code=ExitCode.PEER_LOST)
    assert not any(Path(f"/proc/{worker}/exe").exists() for worker in workers)
    saved = re.search(r"Saved the state after iteration (\d+)", outcome.console)
    assert saved, outcome.console
    last = outcome.output / (outcome.output / "last_checkpoint").read_text()
    assert read_checkpoint(last)["iteration"] == int(saved[1])


@pytest.mark.slow
def test_bad_data_of_one_worker_is_said_once(own_data: OwnData) -> None:
    words = ("SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_PERIOD", "5")
    run = Run(own_data.start(*words, flags=("--num-gpus", "2")))
    run.wait_for_checkpoint()
    own_data.image(1).write_bytes(b"no picture")
    assert_ends_well(run.started.end(), r"1\.png.*cannot be used", code=ExitCode.DATA)


def _torchrun(own_data: OwnData, *options: str, words: tuple[str, ...] = ()) -> Run:
    words = ("SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "400", "SOLVER.CHECKPOINT_PERIOD", "20", *words)
    return Run(own_data.start(*words, launcher=("-m", "torch.distributed.run", *options)))


@pytest.mark.slow
def test_torchrun_starts_a_lost_worker_again(own_data: OwnData) -> None:
    run = _torchrun(own_data, "--standalone", "--nproc-per-node", "4", "--max-restarts", "1")
    run.wait_for_checkpoint()
    os.kill(run.workers()[2], signal.SIGKILL)
    outcome = run.started.end(timeout=400)
    assert outcome.code == 0, outcome.console
    assert "going on from the last checkpoint" in outcome.console and "Resuming after iteration" in outcome.console
    starts = json.loads((outcome.output / "run.json").read_text())["starts"]
    assert len(starts) == 2 and starts[1]["iteration"] >= 20 and starts[0]["run"] == starts[1]["run"]


@pytest.mark.slow
def test_training_goes_on_without_a_machine_that_is_gone(own_data: OwnData, free_port: Callable[[], int]) -> None:
    options = ("--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-id", "job")
    endpoint = ("--rdzv-endpoint", f"127.0.0.1:{free_port()}")
    output = own_data.root / "elastic"
    words = ("OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", "400", "SOLVER.CHECKPOINT_PERIOD", "10")
    first = _torchrun(own_data, *options, *endpoint, "--rdzv-conf", "is_host=1", words=words)  # whose loss nobody can survive
    second = _torchrun(own_data, *options, *endpoint, "--rdzv-conf", "is_host=0", words=words)
    first.output = output
    first.wait_for_checkpoint()
    assert json.loads((output / "run.json").read_text())["starts"][-1]["workers"] == 2
    second.kill_all()
    outcome = first.started.end(timeout=500)
    assert outcome.code == 0, outcome.console
    assert "1 workers instead of 2: the batch of 4 images is kept" in outcome.console
    starts = json.loads((output / "run.json").read_text())["starts"]
    assert [start["workers"] for start in starts] == [2, 1] and starts[-1]["iteration"] > 0


@pytest.fixture
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


def test_the_reader_of_processes_sees_children() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert child.pid in children_of(os.getpid())
    child.kill()
    child.wait()
    assert child.pid not in children_of(os.getpid())


_LEFT_ALONE = """
import os, subprocess, sys, time
waits = "from detkit.engine import launch; print('waits', flush=True); launch(print, 1, device='cpu')"
subprocess.Popen([sys.executable, "-c", waits], env={**os.environ, "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"})
time.sleep(600)
"""


def test_a_worker_that_waits_for_others_ends_with_the_process_that_has_started_it() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    starter = subprocess.Popen(
        [sys.executable, "-c", _LEFT_ALONE],
        env={**os.environ, "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "run"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert starter.stdout is not None
    said = ""
    while not said.endswith("waits\n"):
        said += starter.stdout.readline()
    time.sleep(1)
    starter.kill()
    rest = starter.stdout.read()  # until the worker has ended as well
    starter.wait()
    assert re.search(r"^error: worker 0 of 2 has not met the others: the process that had started it is gone\.$", rest, re.MULTILINE)
    assert "Traceback" not in rest
