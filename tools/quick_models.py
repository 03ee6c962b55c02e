#!/usr/bin/env python
"""Makes the small models of the project: trains them on generated pictures, and puts them where their names find them.

python tools/quick_models.py                      all of them
python tools/quick_models.py quick_fcos_shapes    about six minutes on one core

Below $DETKIT_CACHE (~/.cache/detkit) lie afterwards trainings/NAME, the run, and models/NAME, the folder to be released: weights in 16
bits, config, card. What is there already is not made again. The weights go into the cache of the model zoo as well, so that
detkit.Predictor("NAME") and MODEL.WEIGHTS detkit://NAME load them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import detkit.engine  # noqa: F401  before the others: it silences what dependencies say when they are imported

# isort: split
from detkit.checkpoint import CheckpointError, CheckpointFolder, add_zoo_file
from detkit.config_files import cache_folder, get_config_file
from detkit.model_zoo import OWN_SOURCE, ZooError, entries, made_file
from detkit.sharing import SHARED_WEIGHTS, model_of_run, write_shared_model

TRAIN_NET = Path(__file__).parents[1] / "train_net.py"
#: for all models together, in bytes
MOST = 12 * 2**20


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, trains what is not trained yet, and prints where the models lie.

    Raises:
        SystemExit: a name that is none of them, or a training that failed.
    """
    names = [entry.name for entry in entries().values() if entry.source == OWN_SOURCE]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; default: all")
    args = parser.parse_args(argv)
    unknown = [name for name in args.names if name not in names]
    if unknown:
        sys.exit(f"error: there is no small model '{unknown[0]}'. There are {', '.join(names)}.")
    try:
        folders = [make(name) for name in args.names or names]
    except (CheckpointError, ZooError, OSError) as error:
        sys.exit(f"error: {error}")
    total = sum((folder / SHARED_WEIGHTS).stat().st_size for folder in folders)
    for folder in folders:
        print(f"{folder}: {(folder / SHARED_WEIGHTS).stat().st_size / 2**20:.1f} MiB")
    if total > MOST:
        sys.exit(f"error: {total / 2**20:.1f} MiB in all are more than {MOST / 2**20:.0f}. Leave a model out of the table.")


def make(name: str) -> Path:
    """Trains a model, unless it is trained, and writes its folder; returns the folder."""
    run, folder = cache_folder() / "trainings" / name, made_file(name).parent
    if not CheckpointFolder(run).final.is_file():
        config = get_config_file(f"quick/{name.removeprefix('quick_')}.yaml")
        command = [sys.executable, str(TRAIN_NET), "--config-file", config, "--resume", "OUTPUT_DIR", str(run)]
        if subprocess.run(command, check=False, env=os.environ).returncode:
            raise CheckpointError(f"The training of '{name}' has failed; {run / 'log.txt'} says why.")
    write_shared_model(model_of_run(run), folder, name=name, half=True, licence="apache-2.0")
    add_zoo_file(name, folder / SHARED_WEIGHTS)
    return folder


if __name__ == "__main__":
    main()
