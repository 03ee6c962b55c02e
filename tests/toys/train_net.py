"""``train_net.py`` with the toy detectors, and the toy dataset if the environment variable ``TOY_JSON`` names its json."""

from __future__ import annotations

import os
from pathlib import Path

from detkit.engine import run
from tests.toys.datasets import register_toy_data

if __name__ in ("__main__", "__mp_main__") and "TOY_JSON" in os.environ:
    register_toy_data(Path(os.environ["TOY_JSON"]), "toy")

if __name__ == "__main__":
    run()
