#!/usr/bin/env python
"""Makes a folder to hand on from a run: weights as safetensors, the config with class names, a card with the measured results.

python tools/share.py output/raccoon shared/raccoon
python tools/share.py output/raccoon shared/raccoon --fp16 --license apache-2.0 --push user/raccoon

detkit.Predictor.from_hub reads the folder, or "user/raccoon" from the Hugging Face Hub.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import detkit.engine  # noqa: F401  before the others: it silences what dependencies say when they are imported

# isort: split
from detkit.sharing import SHARED_WEIGHTS, model_of_run, push_shared_model, write_shared_model


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, writes the folder, pushes it where that is asked for.

    Raises:
        SystemExit: bad input, with one line; a folder that could not be pushed stays.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="OUTPUT_DIR of a training")
    parser.add_argument("folder", type=Path, help="is made")
    parser.add_argument("--checkpoint", metavar="FILE", help="name of one in the folder of the run (default: the newest)")
    parser.add_argument("--name", help="for the card (default: the folder's name)")
    parser.add_argument("--license", help="of the weights, as 'apache-2.0'; your data decides what you may say here")
    parser.add_argument("--fp16", action="store_true", help="half the size: weights of 16 bits")
    parser.add_argument("--push", metavar="USER/NAME", help="to the Hugging Face Hub; log in with 'hf auth login' first")
    parser.add_argument("--public", action="store_true", help="make the model that is pushed seen by everybody")
    args = parser.parse_args(argv)
    try:
        model = model_of_run(args.run, checkpoint=args.checkpoint)
        folder = write_shared_model(model, args.folder, name=args.name or args.folder.resolve().name, half=args.fp16, licence=args.license)
        print(f"{folder}: {(folder / SHARED_WEIGHTS).stat().st_size / 2**20:.1f} MiB; read it with Predictor.from_hub('{folder}').")
        if not model.results:
            print("warning: the run has no results of this checkpoint, so the card names none.", file=sys.stderr)
        if args.push:
            print(push_shared_model(folder, args.push, private=not args.public))
    except (ValueError, OSError, ImportError) as error:
        sys.exit("error: " + "; ".join(line.strip() for line in str(error).splitlines() if line.strip()))


if __name__ == "__main__":
    main()
