"""Does a long training stay as large as it was? Memory and files over thousands of steps, one method after the other.

    python benchmarks/soak.py                                     # 3000 steps of the smallest config of each method
    python benchmarks/soak.py --methods fcos --steps 500 INPUT.MIN_SIZE_TRAIN "(192,)"

Each method trains ``configs/quick/<method>_shapes.yaml`` in a process of its own, on two images of 64 pixels per step, so that a step takes
a tenth of a second, with checkpoints of which two are kept. Resident memory is read every 50 steps; the peak after the warm-up, a fifth of
the steps, is compared with that at its end. Files that may grow are the logs: ``log.txt``, ``metrics.json``, TensorBoard's. The exit status
is 1 where memory has grown by more than 2 percent or another file has.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("fcos", "atss", "dw", "sparsercnn", "lsnet")
#: steps between two looks
PERIOD = 50
_LOGS = ("log.txt", "metrics.json", "events.out")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--train", metavar="FOLDER", help=argparse.SUPPRESS)  # what the process of one method is called with
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for the config")
    args = parser.parse_args()
    if args.train:
        print(json.dumps(_train(args.methods[0], args.steps, args.train, args.opts)))
        return 0
    print(f"method        steps  memory after warm-up  largest later      growth  files that grew\n{'-' * 92}")
    return max([_soak(method, args.steps, args.opts) for method in args.methods])


def _soak(method: str, steps: int, opts: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--methods", method, "--steps", str(steps), "--train", folder, *opts]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(f"{method:12}  ended with status {done.returncode}")
        return 1
    found = json.loads(done.stdout.splitlines()[-1])
    memory, warm = found["memory"], len(found["memory"]) // 5
    start, largest = memory[warm], max(memory[warm:])
    growth = 100 * (largest / start - 1)
    grown = ", ".join(found["grown"]) or "none"
    print(f"{method:12} {steps:6}  {start / 2**20:16.1f} MiB  {largest / 2**20:9.1f} MiB  {growth:8.2f} %  {grown}")
    return int(growth > 2 or bool(found["grown"]))


def _train(method: str, steps: int, folder: str, opts: list[str]) -> dict[str, Any]:
    """Resident memory in bytes at every look, and the names of files other than logs that are larger in the end than after the warm-up."""
    from detectron2.engine import HookBase

    from detkit.config import get_cfg
    from detkit.data import prepare_datasets
    from detkit.engine import Trainer

    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / "configs" / "quick" / f"{method}_shapes.yaml"))
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.CHECKPOINT_KEEP = steps, (), max(steps // 10, 1), 2
    cfg.TEST.EVAL_PERIOD, cfg.TEST.EXPECTED_RESULTS, cfg.OUTPUT_DIR = 0, [], folder
    cfg.SOLVER.IMS_PER_BATCH, cfg.INPUT.MIN_SIZE_TRAIN = 2, (64,)
    cfg.merge_from_list(opts)
    cfg.SOLVER.REFERENCE_BATCH_SIZE = cfg.SOLVER.IMS_PER_BATCH  # or the steps would be made more, as for any smaller batch
    prepare_datasets(cfg)
    cfg.DATASETS.TEST = ()

    class Look(HookBase):
        def __init__(self) -> None:
            self.memory: list[int] = []
            self.files: dict[str, int] = {}

        def after_step(self) -> None:
            if self.trainer.iter % PERIOD == 0:
                self.memory.append(_resident())
            if self.trainer.iter == steps // 5:
                self.files = _sizes(Path(folder))

    look = Look()
    trainer = Trainer(cfg)
    trainer.register_hooks([look])
    sys.stdout.flush()
    trainer.train()
    last = _sizes(Path(folder))
    return {"memory": look.memory, "grown": sorted(name for name, size in look.files.items() if last.get(name, 0) > size)}


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.name.startswith(_LOGS)}


def _resident() -> int:
    """Bytes of this process and of the data workers that it has started."""
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True).stdout.split()
    return sum(_resident_of(pid) for pid in (str(os.getpid()), *children))


def _resident_of(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # it has ended
        return 0


if __name__ == "__main__":
    sys.exit(main())
