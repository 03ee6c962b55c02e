"""Starts the workers of a run, or joins the ones that somebody else has started.

``torchrun`` (and with it the launchers of SLURM and Kubernetes) starts the processes itself and passes each its rank in environment
variables; else `--num-gpus` processes are started here. GPUs talk by NCCL, CPUs by gloo.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import SplitResult, urlsplit

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from detkit.config import ConfigError
from detkit.engine.exits import Exit, ExitCode, exit_code_of, interruptible, mute
from detkit.engine.family import Family
from detkit.engine.peers import claim_end, leave_if_others_end, new_name, say, watching

__all__ = ["PATIENCE", "TIMEOUT", "LaunchError", "Worker", "check_processes", "joined_worker", "launch", "process_group"]

#: After which a collective operation gives up, though all workers live.
TIMEOUT = timedelta(minutes=30)
#: How long workers wait for each other to come.
MEETING = timedelta(minutes=10)
#: Seconds without a sign of life after which a worker is lost.
PATIENCE = 90.0
_STARTER = os.getppid()


class LaunchError(ConfigError):
    """Workers that cannot be started as asked. The message names the option and the remedy."""


@dataclass(frozen=True)
class Worker:
    """One process of a run.

    Attributes:
        rank: its index among all, in [0, world_size).
        local_rank: its index on its machine, in [0, local_world_size); also its GPU.
        world_size: processes in all.
        local_world_size: processes on each machine.
        init_method: where they meet: ``tcp://host:port``, ``file://path``, or ``env://`` for ``MASTER_ADDR`` and ``MASTER_PORT``.
        watch: address of the store in which they show that they live; None: that of ``env://``.
    """

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    init_method: str = "env://"
    watch: str | None = None


def joined_worker() -> Worker | None:
    """Rank and world size of this process, if ``torchrun`` or a launcher that sets the same variables has started it; else None."""
    env = os.environ
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= env.keys():
        return None
    # launchers with one process per machine or container do not number the processes on it
    return Worker(
        rank=int(env["RANK"]),
        local_rank=int(env.get("LOCAL_RANK", 0)),
        world_size=int(env["WORLD_SIZE"]),
        local_world_size=int(env.get("LOCAL_WORLD_SIZE", 1)),
    )


def launch(
    main: Callable[..., Any],
    num_processes: int,
    *,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    device: str = "cuda",
    patience: float = PATIENCE,
    args: tuple = (),
) -> Any:
    """Runs ``main(*args)`` in every worker.

    Args:
        main: a function at the top level of a module.
        num_processes: per machine; ignored under ``torchrun``.
        num_machines: machines that take part; this command must be given on each of them.
        machine_rank: index of this machine.
        dist_url: where the processes meet: ``tcp://host:port`` of the machine of rank 0, ``file://path``, or ``auto``, any free port, for
            one machine.
        device: "cuda" or "cpu": what the model runs on.
        patience: seconds without a sign of life after which a worker is lost, see :mod:`detkit.engine.peers`.
        args: of ``main``; they are pickled for the processes started here.

    Returns:
        what ``main`` returns, where it runs in this process (one process, or under ``torchrun``); else None.

    Raises:
        LaunchError: see :func:`check_processes`; or the address is in use or does not exist.
        SystemExit: a worker has stopped with this exit code, after saying the reason.
    """
    worker = joined_worker()
    if worker is not None:
        with process_group(worker, device, patience=patience):
            return main(*args)
    check_processes(num_processes, num_machines=num_machines, machine_rank=machine_rank, device=device)
    world_size = num_processes * num_machines
    if world_size == 1:
        return main(*args)
    store, meeting = _meeting(dist_url, num_machines, machine_rank)
    workers = [
        Worker(machine_rank * num_processes + local_rank, local_rank, world_size, num_processes, *meeting)
        for local_rank in range(num_processes)
    ]
    context = mp.start_processes(
        _started_worker, args=(workers, device, patience, main, args), nprocs=num_processes, join=False, start_method="spawn"
    )
    Family(context.processes, [worker.rank for worker in workers], world_size, store).wait()
    return None


def _meeting(dist_url: str, num_machines: int, machine_rank: int) -> tuple[dist.Store, tuple[str, str | None]]:
    """A store that outlives the workers, and the addresses of a worker: where the group meets, and where the watch does.

    Raises:
        LaunchError: the address cannot be used.
    """
    if dist_url == "auto" and num_machines > 1:
        raise LaunchError("--dist-url auto is for one machine. Give the address of the first, the same on all: --dist-url tcp://HOST:PORT.")
    url = urlsplit(dist_url)
    if dist_url == "auto" or (url.scheme == "file" and num_machines == 1):
        store = _open_store("127.0.0.1", 0, first=True, url=dist_url)
        own = f"tcp://127.0.0.1:{store.port}"
        return store, (own if dist_url == "auto" else dist_url, own)
    if url.scheme != "tcp" or not url.hostname or not _port(url):
        raise LaunchError(f"--dist-url {dist_url}: give tcp://HOST:PORT, file:///a/path (on one machine), or auto.")
    return _open_store(url.hostname, _port(url), first=machine_rank == 0, url=dist_url), (dist_url, dist_url)


def _port(url: SplitResult) -> int:
    try:
        return url.port or 0
    except ValueError:  # beyond 65535, or no number
        return 0


def _open_store(host: str, port: int, *, first: bool, url: str) -> dist.TCPStore:
    try:
        return dist.TCPStore(host, port, None, first, MEETING, wait_for_workers=False)
    except dist.DistError as error:
        if "EADDRINUSE" in str(error):
            raise LaunchError(f"--dist-url {url}: port {port} is in use. Name another port, or --dist-url auto on one machine.") from error
        raise LaunchError(
            f"--dist-url {url}: {'cannot be opened' if first else f'did not answer within {MEETING}'} ({str(error).splitlines()[0]}). It "
            "has to be an address of the machine with --machine-rank 0."
        ) from error


def check_processes(num_processes: int, *, num_machines: int = 1, machine_rank: int = 0, device: str = "cuda") -> None:
    """Whether :func:`launch` can start what it is asked for.

    Raises:
        LaunchError: more processes than GPUs, or numbers out of range.
    """
    if joined_worker() is not None:
        return
    if num_processes < 1 or not 0 <= machine_rank < num_machines:
        raise LaunchError(
            f"--num-gpus {num_processes} --num-machines {num_machines} --machine-rank {machine_rank}: at least one process, "
            "and a machine rank from 0 to the number of machines - 1, are needed."
        )
    if device == "cuda" and num_processes > torch.cuda.device_count():
        raise LaunchError(
            f"--num-gpus {num_processes}: this machine has {torch.cuda.device_count()} CUDA devices. Ask for fewer, or give "
            "MODEL.DEVICE cpu to run as many processes on the CPU."
        )


@contextlib.contextmanager
def process_group(worker: Worker, device: str, *, patience: float = PATIENCE) -> Iterator[None]:
    """Makes this process a worker of its group, which watches over the others; on success the group is destroyed at the end.

    Args:
        worker: rank, world size and meeting point of this process.
        device: "cuda" (NCCL; GPU ``worker.local_rank``) or "cpu" (gloo).
        patience: see :func:`launch`.
    """
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.set_device(worker.local_rank)
    _meet(worker, on_gpu)
    name = comm.all_gather(new_name())[0]
    address = worker.watch or f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    url = urlsplit(address)
    client = dist.TCPStore(url.hostname or "", url.port or 0, None, False, MEETING, wait_for_workers=False)
    with watching(client, name, rank=worker.rank, world_size=worker.world_size, patience=patience):
        comm.create_local_process_group(worker.local_world_size)
        comm.synchronize()
        try:
            yield
        except Exception as error:
            leave_if_others_end(error)
            if not claim_end(exit_code_of(error)):
                leave_if_others_end()
            raise
    dist.destroy_process_group()


def _meet(worker: Worker, on_gpu: bool) -> None:
    options: dict[str, Any] = {"init_method": worker.init_method}
    if worker.init_method.startswith("tcp://"):  # its store is that of the process that has started this one
        url = urlsplit(worker.init_method)
        client = dist.TCPStore(url.hostname or "", url.port or 0, None, False, MEETING, wait_for_workers=False)
        options = {"store": dist.PrefixStore("group", client)}
    try:
        with _ended_when_left_alone(worker):
            dist.init_process_group(
                "nccl" if on_gpu else "gloo",
                rank=worker.rank,
                world_size=worker.world_size,
                timeout=TIMEOUT,
                device_id=torch.device("cuda", worker.local_rank) if on_gpu else None,
                **options,
            )
    except dist.DistError as error:
        where = worker.init_method if worker.init_method != "env://" else f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        message = f"error: worker {worker.rank} of {worker.world_size} could not meet the others at {where}: {str(error).splitlines()[0]}"
        say(message)
        raise Exit(message, ExitCode.CONFIG if "EADDRINUSE" in str(error) else ExitCode.PEER_LOST) from error


@contextlib.contextmanager
def _ended_when_left_alone(worker: Worker) -> Iterator[None]:
    """Ends this process where it would wait for the others for ever. No signal reaches Python there, and torch's time limit does not hold
    for each of its connections."""
    met = threading.Event()
    stays = worker.watch is not None or "TORCHELASTIC_RUN_ID" in os.environ  # a shell that has started it by hand may go
    end = time.monotonic() + TIMEOUT.total_seconds()

    def look() -> None:
        while not met.wait(0.5):
            if stays and os.getppid() != _STARTER:
                reason = "the process that had started it is gone"
            elif time.monotonic() > end:
                reason = f"they have not come within {TIMEOUT}"
            else:
                continue
            say(f"error: worker {worker.rank} of {worker.world_size} has not met the others: {reason}.")
            os._exit(ExitCode.PEER_LOST)

    threading.Thread(target=look, daemon=True, name="meeting").start()
    try:
        yield
    finally:
        met.set()


def _started_worker(local_rank: int, workers: list[Worker], device: str, patience: float, main: Callable[..., Any], args: tuple) -> None:
    worker = workers[local_rank]
    if worker.rank:
        mute()
    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // worker.local_world_size))  # share the cores
    try:
        with interruptible(), process_group(worker, device, patience=patience):
            main(*args)
    except Exception:
        traceback.print_exc()
        sys.exit(ExitCode.DEFECT)
