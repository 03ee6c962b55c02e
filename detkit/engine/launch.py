"""Starts the workers of a run, or joins the ones that somebody else has started.

``torchrun`` (and with it the launchers of SLURM and Kubernetes) starts the processes itself and passes each its rank in environment
variables; else `--num-gpus` processes are started here. GPUs talk by NCCL, CPUs by gloo.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

__all__ = ["TIMEOUT", "Worker", "check_processes", "joined_worker", "launch", "process_group"]

#: After which a collective operation gives up, when a worker is gone.
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Worker:
    """One process of a run.

    Attributes:
        rank: its index among all, in [0, world_size).
        local_rank: its index on its machine, in [0, local_world_size); also its GPU.
        world_size: processes in all.
        local_world_size: processes on each machine.
        init_method: where they meet: ``tcp://host:port``, ``file://path``, or ``env://`` for ``MASTER_ADDR`` and ``MASTER_PORT``.
    """

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    init_method: str = "env://"


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
    dist_url: str = "env://",
    device: str = "cuda",
    args: tuple = (),
) -> Any:
    """Runs ``main(*args)`` in every worker.

    Args:
        main: a function at the top level of a module.
        num_processes: per machine; ignored under ``torchrun``.
        num_machines: machines that take part; this command must be given on each of them.
        machine_rank: index of this machine.
        dist_url: where the processes meet, ``tcp://host:port``.
        device: "cuda" or "cpu": what the model runs on.
        args: of ``main``; they are pickled for the processes started here.

    Returns:
        what ``main`` returns, where it runs in this process (one process, or under ``torchrun``); else None.

    Raises:
        ValueError: see :func:`check_processes`.
        SystemExit: a worker has stopped with this exit code, after printing the reason.
    """
    worker = joined_worker()
    if worker is not None:
        with process_group(worker, device):
            return main(*args)
    check_processes(num_processes, num_machines=num_machines, machine_rank=machine_rank, device=device)
    world_size = num_processes * num_machines
    if world_size == 1:
        return main(*args)
    workers = [
        Worker(machine_rank * num_processes + local_rank, local_rank, world_size, num_processes, dist_url)
        for local_rank in range(num_processes)
    ]
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # a worker that fails prints its own error
    context = mp.start_processes(
        _started_worker, args=(workers, device, main, args), nprocs=num_processes, join=False, start_method="spawn"
    )
    _wait_for(context)
    return None


def check_processes(num_processes: int, *, num_machines: int = 1, machine_rank: int = 0, device: str = "cuda") -> None:
    """Whether :func:`launch` can start what it is asked for.

    Raises:
        ValueError: more processes than GPUs, or numbers out of range.
    """
    if joined_worker() is not None:
        return
    if num_processes < 1 or not 0 <= machine_rank < num_machines:
        raise ValueError(
            f"--num-gpus {num_processes} --num-machines {num_machines} --machine-rank {machine_rank}: at least one process, "
            "and a machine rank from 0 to the number of machines - 1, are needed."
        )
    if device == "cuda" and num_processes > torch.cuda.device_count():
        raise ValueError(
            f"--num-gpus {num_processes}: this machine has {torch.cuda.device_count()} CUDA devices. Ask for fewer, or give "
            "MODEL.DEVICE cpu to run as many processes on the CPU."
        )


@contextlib.contextmanager
def process_group(worker: Worker, device: str) -> Iterator[None]:
    """Makes this process a worker of its group; on success the group is destroyed at the end.

    Args:
        worker: rank, world size and meeting point of this process.
        device: "cuda" (NCCL; GPU ``worker.local_rank``) or "cpu" (gloo).
    """
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.set_device(worker.local_rank)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=worker.init_method,
        rank=worker.rank,
        world_size=worker.world_size,
        timeout=TIMEOUT,
        device_id=torch.device("cuda", worker.local_rank) if on_gpu else None,
    )
    comm.create_local_process_group(worker.local_world_size)
    comm.synchronize()
    yield
    dist.destroy_process_group()


def _started_worker(local_rank: int, workers: list[Worker], device: str, main: Callable[..., Any], args: tuple) -> None:
    worker = workers[local_rank]
    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // worker.local_world_size))  # share the cores
    with process_group(worker, device):
        main(*args)


def _wait_for(context: mp.ProcessContext) -> None:
    """Waits for the started processes and passes on a request to stop, which they answer with a checkpoint."""

    def pass_on(signum: int, frame: object) -> None:
        for pid in context.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    previous = {signum: signal.signal(signum, pass_on) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not context.join():
            pass
    except mp.ProcessExitedException as error:
        sys.exit(error.exit_code if error.exit_code > 0 else 1)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
