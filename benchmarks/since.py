"""How much faster is it than at an earlier commit? Both run in the same rounds, each in a process of its own.

    python benchmarks/since.py                      # beside the commit before steps stopped waiting
    python benchmarks/since.py --commit v0.1

LSNet's head on the pyramid of one image of 800 x 1344, in inference and in training (forward and backward); FCOS from an image of
800 x 1333 to detections. Each in the form in which it runs by default. The earlier code is checked out into ``output/benchmarks/earlier``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peers.worker import Worker
from timing import Report, Sample, alternate, arguments, figures

ROOT = Path(__file__).resolve().parents[1]
EARLIER = ROOT / "output" / "benchmarks" / "earlier"
#: what is measured: columns of the row, case, arguments
CASES: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"what": "LSNet's head, inference"}, "head", {"method": "LSNet", "training": False}),
    ({"what": "LSNet's head, training"}, "head", {"method": "LSNet", "training": True}),
    ({"what": "FCOS, inference"}, "inference", {"method": "FCOS", "size": [800, 1333]}),
]


def check_out(commit: str) -> Path:
    """The packages of a commit in a folder of their own."""
    shutil.rmtree(EARLIER, ignore_errors=True)
    EARLIER.mkdir(parents=True)
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True)
    if packed.returncode:
        sys.exit(f"error: {packed.stderr.decode().strip().splitlines()[0]}: name a commit of this checkout with --commit.")
    subprocess.run(["tar", "-x"], cwd=EARLIER, input=packed.stdout, check=True)
    return EARLIER


def main() -> None:
    parser = arguments(__doc__, json_name="since")
    parser.add_argument("--commit", default="f752637", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cases, rounds = (CASES[2:], 1) if args.quick else (CASES, args.rounds)
    title, question = f"Beside the earlier commit {args.commit}", str(__doc__).split("\n\n")[2]
    with (
        Report(title, question, args.json, quick=args.quick, index=["what"]) as report,
        Worker("ours", args.threads) as now,
        Worker("ours", args.threads, root=check_out(args.commit)) as then,
    ):
        for what, case, given in cases:
            if args.quick:
                given = given | {"size": [128, 160]}
            if report.has(**what):
                continue
            for worker in (now, then):
                worker.make(case, **given)
                worker.end_slow_state()
            sides: dict[str, Callable[[], Sample]] = {"ours": now.sample, "earlier": then.sample}
            for side, samples in alternate(sides, rounds=rounds).items():
                report.add(**what, side=side, **figures(samples))


if __name__ == "__main__":
    main()
