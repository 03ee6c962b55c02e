"""The records of a training once per machine: made by one worker, read by all workers there and by their data workers.

They lie in memory that has no name in any file system (Linux's ``memfd``): it is gone with the last process that reads it, however it ends.
"""

from __future__ import annotations

import logging
import mmap
import os
import pickle
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, overload

import numpy as np
from detectron2.data import DatasetFromList
from detectron2.utils import comm

from detkit.distributed import get_rank, get_world_size

__all__ = ["SharedRecords", "shared_on_machine"]

logger = logging.getLogger(__name__)

_INTEGER = np.dtype(np.int64)


class SharedRecords(Sequence[dict[str, Any]]):
    """A list of records in shared memory; each is unpickled when it is asked for, so that it may be changed.

    Processes that are forked read the same memory, and those that are sent one by pickle or its :attr:`address`, as long as the process
    that made it lives when they open it.

    Args:
        descriptor: of the memory, which :meth:`of` fills. It is closed with this object.

    Attributes:
        facts: what was given beside the records.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        # pickled records and facts, behind each other; the offset where each ends; how many there are
        count = int(np.frombuffer(self._memory, _INTEGER, 1, len(self._memory) - _INTEGER.itemsize)[0])
        self._ends = np.frombuffer(self._memory, _INTEGER, count, len(self._memory) - (count + 1) * _INTEGER.itemsize)
        self.facts = self._read(count - 1)
        self._descriptor = descriptor

    @classmethod
    def of(cls, records: Sequence[dict[str, Any]], facts: Any = None) -> SharedRecords:
        """Puts records, and facts about them, into new memory. Where the system has such: see :meth:`possible`.

        Raises:
            OSError: there is not enough.
        """
        descriptor = os.memfd_create("records", os.MFD_CLOEXEC)
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                ends = np.zeros(len(records) + 1, _INTEGER)
                for number, each in enumerate((*records, facts)):
                    file.write(pickle.dumps(each, protocol=pickle.HIGHEST_PROTOCOL))
                    ends[number] = file.tell()
                file.write(b"\0" * (-file.tell() % _INTEGER.itemsize) + ends.tobytes() + _INTEGER.type(len(ends)).tobytes())
            return cls(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def open(cls, address: str) -> SharedRecords:
        """Those that another process has made.

        Raises:
            OSError: it has ended, or lets nobody look.
        """
        return cls(os.open(address, os.O_RDONLY | os.O_CLOEXEC))

    @staticmethod
    def possible() -> bool:
        """Whether the system has memory that can be shared in this way."""
        return hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")

    @property
    def address(self) -> str:
        """For :meth:`open`, in processes of this machine."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self._read(each) for each in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} records; {index} is asked for.")
        return self._read(index % len(self))

    def __reduce__(self) -> tuple[Callable[[str], SharedRecords], tuple[str]]:
        return SharedRecords.open, (self.address,)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self._descriptor)

    def _read(self, index: int) -> Any:
        start = int(self._ends[index - 1]) if index else 0
        return pickle.loads(memoryview(self._memory)[start : int(self._ends[index])])  # noqa: S301  written by this class


def shared_on_machine(build: Callable[[], tuple[Sequence[dict[str, Any]], Any]]) -> tuple[Sequence[dict[str, Any]], Any]:
    """Records and facts about them, which the first worker of every machine builds for all that run there. Every worker has to call it.

    Where memory cannot be shared (another system, containers that do not see each other's processes), every worker builds them.

    Args:
        build: gives records and facts. What it raises ends the first worker alone, and with it the run.
    """
    if not SharedRecords.possible():
        records, facts = build()
        return DatasetFromList(list(records), copy=False), facts
    if get_world_size() == 1:
        made = SharedRecords.of(*build())
        return made, made.facts
    machines = comm.all_gather(_machine())
    first = machines.index(_machine())
    found = SharedRecords.of(*build()) if first == get_rank() else None
    address = comm.all_gather(found.address if found else None)[first]
    if found is None:
        try:
            found = SharedRecords.open(address)
        except OSError as error:
            logger.info("The records of worker %d cannot be shared (%s): worker %d makes its own.", first, error, get_rank())
            found = SharedRecords.of(*build())
    return found, found.facts


def _machine() -> tuple[str, str]:
    """What workers have in common that see each other's processes by the same numbers."""
    return socket.gethostname(), os.readlink("/proc/self/ns/pid")
