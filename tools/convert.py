#!/usr/bin/env python
"""Writes published weights of any known layout as a file of ours: the tensors alone, under our names.

python tools/convert.py atss_r50_fpn_1x_coco_20200209-985f7bd0.pth atss.safetensors     the model zoo knows the file
python tools/convert.py epoch_12.pth mine.pth --config-file fcos/fcos_R_50_FPN_1x_mmdet.yaml
python tools/convert.py ATSS_R_50_FPN_1x.pth --name atss_R_50_FPN_1x                    detkit://atss_R_50_FPN_1x finds it from then on

Files of mmengine with message hubs, optimizers and arrays in them are read without running what they contain.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import detkit.engine  # noqa: F401  before the others: it silences what dependencies say when they are imported

# isort: split
from detkit.checkpoint import CheckpointError, add_zoo_file, convert_file
from detkit.config import ConfigError
from detkit.model_zoo import ZooError


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, writes the file and prints what was found.

    Raises:
        SystemExit: bad input; one message with the reason.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="IN", help="a file of weights")
    parser.add_argument("target", type=Path, nargs="?", metavar="OUT", help=".safetensors or .pth; without it: the cache of the model zoo")
    parser.add_argument("--name", help="of the weights in the model zoo (python -m detkit.model_zoo lists them)")
    parser.add_argument("--config-file", metavar="FILE", help="that the weights were trained with, or its name below configs/")
    parser.add_argument("--key", help="under which the weights stand in the file, where there are several (ema_state_dict)")
    parser.add_argument("--half", action="store_true", help="store 16 bits for each number")
    args = parser.parse_args(argv)
    try:
        if args.target is not None:
            report = convert_file(args.source, args.target, config=args.config_file, name=args.name, part=args.key, half=args.half)
            print(f"{args.target}: {report} {args.target.stat().st_size / 2**20:.1f} MiB.")
        elif args.name and not (args.config_file or args.key or args.half):
            add_zoo_file(args.name, args.source)
            print(f"MODEL.WEIGHTS detkit://{args.name} is {args.source} from now on.")
        else:
            parser.error("name OUT, or the weights' --name alone")
    except (CheckpointError, ZooError, ConfigError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
