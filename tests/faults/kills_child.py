"""The command line of two workers for :mod:`tests.faults.kills`."""

from __future__ import annotations

from detkit.engine import run
from tests.faults.kills import prepare

if __name__ in ("__main__", "__mp_main__"):
    prepare()

if __name__ == "__main__":
    run()
