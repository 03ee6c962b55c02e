"""``train_net.py`` with the toy detector and the toy dataset, whose json is named by the environment variable ``TOY_JSON``."""

from __future__ import annotations

import os
from pathlib import Path

from detkit.engine import run
from tests.toys.datasets import register_toy_data

if __name__ in ("__main__", "__mp_main__"):
    register_toy_data(Path(os.environ["TOY_JSON"]), "toy")

if __name__ == "__main__":
    run()
