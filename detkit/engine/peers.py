"""Whether the other workers of a run live, and one end for all where one does not.

Every worker shows twice a second that it lives, in a store that all of them reach, whatever it is computing: a long evaluation is not
taken for a death. Who is gone or does not answer for :attr:`PeerWatch.patience` seconds is lost: a worker that has ended without
a word (killed), was stopped (SIGSTOP), or whose machine or network is gone. The first finding counts for all. One of the others, the
first that lives, saves what can be saved and says what has happened; all of them end with the same exit code.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from detkit.engine.exits import ExitCode, signal_name
from detkit.engine.run_folder import release_all

__all__ = [
    "PeerWatch",
    "claim_end",
    "end_for_all",
    "ended_by",
    "leave_if_others_end",
    "new_name",
    "process_state",
    "say",
    "set_progress",
    "set_rescue",
    "watch_name",
    "watching",
]

logger = logging.getLogger(__name__)

#: Seconds between two signs of life.
_BEAT = 0.5
#: A process of this machine that is gone has so many seconds to have said why, and its launcher to name the signal.
_WORD = 2.0
#: The others wait so many seconds for the one that saves a checkpoint and speaks.
_RESCUE = 300.0
#: Seconds that a worker has to end by itself after another one has ended the run with a word.
_GRACE = 10.0
_DONE = "done"
#: Key of the prefix, for the process that has started the workers.
_NAME = "detkit/name"


@dataclass(frozen=True)
class _Process:
    """Where a worker runs; ``space`` tells machines and containers apart, in which process numbers mean something."""

    host: str
    pid: int
    space: str

    @classmethod
    def here(cls) -> _Process:
        space = ""
        with contextlib.suppress(OSError):
            space = os.readlink("/proc/self/ns/pid") + Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return cls(socket.gethostname(), os.getpid(), space)


def process_state(pid: int) -> str:
    """One letter as in ``ps``: R, S, D, T (stopped), Z; "" where there is no such process or nothing is known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


class PeerWatch:
    """The watch of one worker over all.

    Args:
        store: that all workers reach, used by nothing else meanwhile.
        rank: of this worker.
        world_size: number of workers.
        patience: seconds without a sign of life after which a worker is lost.

    Attributes:
        progress: the last whole iteration of this worker.
        rescue: saves the state after it, called from another thread than the one that trains; returns what was saved, in words.
    """

    def __init__(self, store: dist.Store, *, rank: int, world_size: int, patience: float) -> None:
        self.rank, self.world_size, self.patience = rank, world_size, patience
        self.progress = -1
        self.rescue: Callable[[], str] | None = None
        self._store = store
        self._me = _Process.here()
        self._processes: dict[int, _Process] = {}
        self._beats: dict[int, tuple[str, float]] = {}
        self._answered = time.monotonic()
        self._gone: dict[int, float] = {}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._show_life, self._watch)]
        self._claimed = False
        self._end: dict[str, Any] | None = None
        self._refused: float | None = None
        self._lock = threading.Lock()  # one thread at a time talks to the store

    def start(self) -> None:
        """Waits until all workers have come, then watches until :meth:`leave`."""
        self._store.set(f"who/{self.rank}", json.dumps(vars(self._me)))
        self._store.set(f"beat/{self.rank}", "0:-1")
        for rank in range(self.world_size):
            self._processes[rank] = _Process(**json.loads(self._store.get(f"who/{rank}")))
        now = time.monotonic()
        self._store.wait([f"beat/{rank}" for rank in range(self.world_size)])
        self._beats = dict.fromkeys(range(self.world_size), ("", now))
        self._answered = now
        for thread in self._threads:
            thread.start()

    def leave(self) -> None:
        """This worker has done its part."""
        self._stop.set()
        with contextlib.suppress(RuntimeError), self._alone():
            self._store.set(f"beat/{self.rank}", _DONE)
        for thread in self._threads:  # a thread that still talks to the store when Python ends would abort the process
            if thread.is_alive():
                thread.join(_WORD)

    # one end for all -------------------------------------------------------------------------------------------------------------------

    def claim_end(self, code: int) -> bool:
        """Ends the run for all with an exit code. Whether this worker is the one to say why; the first that asks is."""
        if self._claimed:
            return True
        end = self._propose({"code": int(code), "speaker": self.rank})
        self._claimed = end.get("speaker") == self.rank
        return self._claimed

    def await_end(self, wait: float) -> None:
        """Ends the process as soon as the run ends for all; returns after ``wait`` seconds if it does not."""
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            if self._end is not None and "lost" not in self._end:
                self._exit(self._end["code"])
            time.sleep(0.05)  # where a worker is lost, the watch ends this process

    def _propose(self, end: dict[str, Any]) -> dict[str, Any]:
        try:
            with self._alone():
                said = self._store.compare_set("end", "", json.dumps(end))
            self._end = json.loads(said)
        except RuntimeError:  # the store is gone
            self._end = self._end or end
        return self._end

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=_WORD):  # the other thread waits for a store that does not answer
            raise dist.DistStoreError("the store does not answer")
        try:
            yield
        finally:
            self._lock.release()

    # the two threads -------------------------------------------------------------------------------------------------------------------

    def _show_life(self) -> None:
        """Talks to the store; a store whose machine is stopped lets it wait for ever, which the other thread notices."""
        count = 0
        keys = [f"beat/{rank}" for rank in range(self.world_size)]
        while not self._stop.is_set():
            count += 1
            try:
                with self._lock:
                    if self._stop.is_set():
                        return
                    self._store.set(keys[self.rank], f"{count}:{self.progress}")
                    values = [value.decode() for value in self._store.multi_get(keys)]
                    if self._end is None and self._store.check(["end"]):
                        self._end = json.loads(self._store.get("end"))
            except RuntimeError as error:
                logger.debug("The store does not answer: %s", error)
                self._refused = self._refused or time.monotonic()
                time.sleep(_BEAT)
                continue
            now = time.monotonic()
            self._answered, self._refused = now, None
            for rank, value in enumerate(values):
                if value != self._beats[rank][0]:
                    self._beats[rank] = (value, now)
            self._stop.wait(_BEAT)

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(_BEAT / 2):
            now = time.monotonic()
            if now - last > 10 * _BEAT:  # this process itself was suspended: all begin anew
                self._beats = {rank: (value, now) for rank, (value, _) in self._beats.items()}
                self._answered, self._gone = now, {}
            last = now
            if self._end is None and not self._claimed:
                lost = self._find_lost(now)
                if lost is not None:
                    self._propose(lost)
            if self._end is not None and not self._claimed:
                self._end_with(self._end)

    def _find_lost(self, now: float) -> dict[str, Any] | None:
        if now - self._answered > self.patience:
            return self._lost(None, f"the store of the workers has not answered for {self.patience:.0f} s")
        for rank, (value, since) in self._beats.items():
            if rank == self.rank or value == _DONE:
                continue
            process = self._processes[rank]
            if process.space and process.space == self._me.space and process_state(process.pid) in ("", "Z", "X"):
                if now - self._gone.setdefault(rank, now) > _WORD:
                    return self._lost(rank, "has ended without a word (killed? out of memory?)")
            elif now - since > self.patience:
                stopped = process.space == self._me.space and process_state(process.pid) in ("T", "t")
                state = "it is stopped, as by SIGSTOP" if stopped else "it is stopped, or its machine or network is gone"
                return self._lost(rank, f"has given no sign of life for {self.patience:.0f} s ({state})")
        nobody_done = all(value != _DONE for value, _ in self._beats.values())
        if self._refused is not None and now - self._refused > 2 * _WORD and nobody_done:
            return self._lost(None, "the store of the workers is gone, and with it worker 0 or what has started it")
        return None

    def _lost(self, rank: int | None, why: str) -> dict[str, Any]:
        return {"code": int(ExitCode.PEER_LOST), "lost": rank, "why": why}

    # the end ---------------------------------------------------------------------------------------------------------------------------

    def _end_with(self, end: dict[str, Any]) -> None:
        if "lost" not in end:  # another worker says why
            self._stop.wait(_GRACE)
            self._exit(end["code"])
        lost = end["lost"]
        if lost == self.rank:
            self._exit(end["code"])
        if self._speaks_for(lost):
            saved = self._rescued()
            say(f"error: {self._described(lost)} {end['why']}{self._last_step(lost)}. {saved}")
            with contextlib.suppress(RuntimeError), self._alone():
                self._store.set("said", "")
        else:
            self._wait_for_speaker(lost)
        self._exit(end["code"])

    def _rescued(self) -> str:
        if self.rescue is None:
            return "No training was under way."
        try:
            return self.rescue()
        except Exception as error:
            logger.debug("Not saved:", exc_info=True)
            return f"The state could not be saved: {error}"

    def _speaks_for(self, lost: int | None) -> bool:
        """The first of those that live; without a store, the first on each machine but the one that had it."""
        now = time.monotonic()
        alive = [rank for rank, (value, since) in self._beats.items() if rank != lost and value != _DONE and self._lives(rank, since, now)]
        if lost is None:
            alive = [
                rank for rank in range(self.world_size) if self._lives(rank, now, now) and self._processes[rank].space == self._me.space
            ]
        return min([self.rank, *alive]) == self.rank

    def _lives(self, rank: int, since: float, now: float) -> bool:
        process = self._processes[rank]
        if process.space and process.space == self._me.space:
            return process_state(process.pid) not in ("", "Z", "X", "T")
        return now - since < max(5.0, self.patience / 2)

    def _wait_for_speaker(self, lost: int | None) -> None:
        deadline = time.monotonic() + (_GRACE if lost is None else _RESCUE)
        while time.monotonic() < deadline:
            with contextlib.suppress(RuntimeError), self._alone():
                if self._store.check(["said"]):
                    return
            time.sleep(_BEAT)

    def _described(self, rank: int | None) -> str:
        if rank is None:
            return f"worker {self.rank} of {self.world_size} ({self._me.host}):"
        process = self._processes[rank]
        return f"worker {rank} of {self.world_size} (process {process.pid} on {process.host})"

    def _last_step(self, rank: int | None) -> str:
        done = self.progress if rank is None else int(self._beats[rank][0].partition(":")[2] or -1)
        return f", last heard of after iteration {done}" if done >= 0 and rank is not None else ""

    def _exit(self, code: int) -> NoReturn:
        release_all()
        logging.shutdown()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def say(message: str) -> None:
    """The one line for the user, also in ``log.txt``."""
    logger.debug("%s", message)
    print(message, file=sys.stderr, flush=True)


# of this process -----------------------------------------------------------------------------------------------------------------------

_watch: PeerWatch | None = None


@contextlib.contextmanager
def watching(store: dist.Store, name: str, *, rank: int, world_size: int, patience: float) -> Iterator[PeerWatch]:
    """Watches over the other workers meanwhile.

    Args:
        store, rank, world_size, patience: see :class:`PeerWatch`.
        name: prefix of the keys, see :func:`new_name`.
    """
    global _watch
    _watch = PeerWatch(dist.PrefixStore(name, store), rank=rank, world_size=world_size, patience=patience)
    _watch.start()
    store.set(_NAME, name)
    try:
        yield _watch
    finally:
        _watch.leave()
        _watch = None


def claim_end(code: int) -> bool:
    """Whether this worker is the one to say why the run ends; see :meth:`PeerWatch.claim_end`. One that is alone is."""
    return _watch is None or _watch.claim_end(code)


def leave_if_others_end(error: BaseException | None = None) -> None:
    """Ends this process where the run ends for all; after an error of the communication it waits for the finding who is lost."""
    if _watch is not None:
        _watch.await_end(_watch.patience + 2 * _GRACE if error is None or is_lost_connection(error) else 0.0)


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error of torch says that another worker does not answer."""
    if isinstance(error, dist.DistError):
        return True
    words = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def set_progress(iteration: int) -> None:
    """Tells the others the last whole iteration."""
    if _watch is not None:
        _watch.progress = iteration


def set_rescue(rescue: Callable[[], str] | None) -> None:
    """What saves the state where another worker is lost."""
    if _watch is not None:
        _watch.rescue = rescue


def new_name() -> str:
    """A prefix for the keys of one watch."""
    return f"detkit/{uuid.uuid4().hex}"


def ended_by(signum: int) -> str:
    """What has happened to a process, in words."""
    return f"was ended by {signal_name(signum)}" + (" (out of memory?)" if signal_name(signum) == "SIGKILL" else "")


def watch_name(store: dist.Store) -> str | None:
    """The prefix of the watch in the store of the process that has started the workers; None before all have come."""
    return store.get(_NAME).decode() if store.check([_NAME]) else None


def end_for_all(store: dist.Store, name: str, rank: int, why: str) -> None:
    """Tells the workers that one of them is gone."""
    end = {"code": int(ExitCode.PEER_LOST), "lost": rank, "why": why}
    dist.PrefixStore(name, store).compare_set("end", "", json.dumps(end))
