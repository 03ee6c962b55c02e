#!/usr/bin/env python
"""The average precision of an exported file on the test sets of a config.

python tools/evaluate_onnx.py fcos.onnx --config-file configs/fcos/fcos_R_50_FPN_1x.yaml [KEY VALUE ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import detkit.engine  # noqa: F401  before the others: it silences what dependencies say when they are imported

# isort: split
from detkit.config import ConfigError, get_cfg
from detkit.data import DataError, prepare_datasets
from detkit.engine.evaluate import evaluate
from detkit.export import OnnxModel


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and logs the metrics; detections go below ``OUTPUT_DIR/onnx/NAME/inference``, beside those of the model.

    Raises:
        SystemExit: bad input, with one message that names the file or key.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="written by tools/export.py")
    parser.add_argument("--config-file", required=True, help="with the test sets, and the sizes of testing")
    parser.add_argument("--threads", type=int, help="of onnxruntime")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of config keys")
    args = parser.parse_intermixed_args(argv)
    cfg = get_cfg()
    try:
        cfg.merge_from_file(args.config_file)
        cfg.merge_from_list([*args.opts, "MODEL.DEVICE", "cpu", "TEST.AUG.ENABLED", False])
        prepare_datasets(cfg, eval_only=True)
        model = OnnxModel(args.file, threads=args.threads).eval()
        model.adapt_config(cfg)
        cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / "onnx" / args.file.stem)
        results = evaluate(cfg, model)
    except (ConfigError, DataError, FileNotFoundError, ImportError, ValueError) as error:
        sys.exit(f"error: {error}")
    for dataset, tasks in results.items():
        for task, metrics in tasks.items():
            print(f"{dataset}, {task}: {'  '.join(f'{name} {value:.2f}' for name, value in metrics.items() if '-' not in name)}")


if __name__ == "__main__":
    main()
