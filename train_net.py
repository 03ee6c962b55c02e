#!/usr/bin/env python
"""Trains and evaluates any detector of this project, with Detectron2's command line.

python train_net.py --config-file configs/quick/fcos_shapes.yaml
python train_net.py --config-file ... --num-gpus 8 --resume
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
torchrun --nproc-per-node 8 train_net.py --config-file ...
"""

import signal
import sys
from types import FrameType


def _end(signum: int, frame: FrameType | None) -> None:
    """Ctrl-C while torch is being imported; later the engine answers."""
    signal.signal(signum, signal.SIG_IGN)
    print(f"Stopped by {signal.Signals(signum).name} before the training had started; nothing is lost.", file=sys.stderr)
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    for _signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_signal, _end)

    from detkit.engine import run

    run()
