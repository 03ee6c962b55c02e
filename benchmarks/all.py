"""All benchmarks, the most telling ones first, and the page that is made of their results.

    python benchmarks/all.py                        # everything, each result in benchmarks/results, then docs/performance.md
    python benchmarks/all.py --minutes 25           # none begins that would not be through by then
    python benchmarks/all.py --only losses inference
    python benchmarks/all.py --resume               # without those that are done of this commit; one that was interrupted goes on
    python benchmarks/all.py --quick                # small and few, results in output/benchmarks/quick: do they run?

Nothing else should run on the machine. Trainings (``matrix.py``, ``detectors.py``, ``proposals.py``, ``multiscale.py``) take hours and are
not among them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from timing import RESULTS

HERE = Path(__file__).resolve().parent
QUICK = HERE.parent / "output" / "benchmarks" / "quick"


class Benchmark(NamedTuple):
    """A script, and about how many minutes it takes on two cores."""

    minutes: float
    options: tuple[str, ...] = ()


#: by name of the script, in order of importance
BENCHMARKS = {
    "losses": Benchmark(4),
    "postprocessing": Benchmark(1),
    "inference": Benchmark(5),
    "since": Benchmark(1.5),
    "network": Benchmark(2.5),
    "data_loading": Benchmark(0.5),
    "launches": Benchmark(1),
    "growth": Benchmark(4),
    "compiled": Benchmark(4, ("--methods", "FCOS", "DW")),
    "landmark_convolution": Benchmark(0.5),
    "assigners": Benchmark(1),
    "matching": Benchmark(0.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="in all (default: no limit)")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    folder, start, failed = QUICK if args.quick else RESULTS, time.monotonic(), []
    for number, name in enumerate(args.only, 1):
        path, spent = folder / f"{name}.json", (time.monotonic() - start) / 60
        head = f"[{number}/{len(args.only)}, {spent:.1f} min] {name}"
        if args.resume and _is_done(path, quick=args.quick):
            print(f"{head}: done before", flush=True)
        elif spent + (0 if args.quick else BENCHMARKS[name].minutes) > args.minutes:
            print(f"{head}: left out, it takes about {BENCHMARKS[name].minutes:g} minutes", flush=True)
        elif _run(name, path, head, quick=args.quick):
            failed.append(name)
    if not args.quick:
        subprocess.run([sys.executable, str(HERE / "page.py")], check=True)
    print(f"{(time.monotonic() - start) / 60:.1f} minutes")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _run(name: str, path: Path, head: str, *, quick: bool) -> int:
    """Starts a benchmark; its exit code."""
    print(f"{head}: about {'a minute' if quick else f'{BENCHMARKS[name].minutes:g} minutes'}", flush=True)
    options = [*BENCHMARKS[name].options, "--json", str(path), *(["--quick"] if quick else [])]
    return subprocess.run([sys.executable, "-W", "ignore", str(HERE / f"{name}.py"), *options]).returncode


def _is_done(path: Path, *, quick: bool) -> bool:
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_text())
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
        return bool(content["finished"]) and content["quick"] == quick and content["environment"]["code"]["commit"] == commit
    return False


if __name__ == "__main__":
    main()
