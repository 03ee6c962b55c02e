#!/usr/bin/env python
"""Writes the HTML page of a run: numbers, curves, pictures.

python tools/report.py --output-dir output/my_run
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import detkit.engine  # noqa: F401  before the others: it silences what dependencies say when they are imported
from detkit.checkpoint import CONFIG_FILE
from detkit.config import SafeCfgNode, get_cfg
from detkit.data import prepare_datasets
from detkit.report import write_report


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and prints the path of the page.

    Raises:
        SystemExit: the page cannot be written, with one line that names the file and the remedy.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", required=True, type=Path, help="the run's OUTPUT_DIR, with metrics.json and inference/")
    parser.add_argument("--config-file", type=Path, help="default: config.yaml in the output folder")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of config keys")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    args = parser.parse_args(argv)
    try:
        cfg = get_cfg()
        cfg.merge_from_file(args.config_file or args.output_dir / CONFIG_FILE)
        cfg.merge_from_list([*args.opts, "OUTPUT_DIR", str(args.output_dir)])
        _prepare_datasets(cfg)
        print(write_report(cfg, args.output_dir))
    except Exception as error:  # a broken file of a run can raise nearly anything
        if args.traceback:
            raise
        sys.exit(f"error: {_one_line(error)}")


def _prepare_datasets(cfg: SafeCfgNode) -> None:
    """Makes the datasets usable that are on this machine; a run whose data are elsewhere still has curves to show."""
    try:
        prepare_datasets(cfg)
    except (ValueError, OSError) as error:
        print(f"warning: the page will lack what needs the data: {_one_line(error)}", file=sys.stderr)


def _one_line(error: Exception) -> str:
    text = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if isinstance(error, (ValueError, OSError)):
        return text
    return f"the page cannot be written ({type(error).__name__}: {text}); --traceback shows where."


if __name__ == "__main__":
    main()
