"""How long does a detector take as it is called, compiled, and as an ONNX file? From padded images to detections.

    python benchmarks/exported.py --config-file configs/fcos/fcos_R_50_FPN_1x.yaml --size 640 640

Random weights, one image, one thread. In PyTorch the network has the form in which it detects: norms folded, channels last.
Prints medians of processor time, A B C A B C, so that all sides see the same load.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from detectron2.modeling import build_model

from detkit.config import get_cfg
from detkit.engine import prepare_for_inference
from detkit.export import DetectorProgram, ExportSettings
from detkit.export.formats import save_onnx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--without-compiled", action="store_true", help="leave torch.compile out, whose compiling takes minutes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(["MODEL.WEIGHTS", "", "MODEL.BACKBONE.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    program, size = DetectorProgram(model), (args.size[0], args.size[1])
    images, sizes = ExportSettings(size=size, batch=1).example()
    as_called = DetectorProgram(prepare_for_inference(cfg, model))
    runs: dict[str, Callable[[], object]] = {"eager": lambda: as_called(images, sizes)}
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        print("torch.compile     left out: its inductor needs a C++ compiler, and there is none")
    elif not args.without_compiled:
        cfg.MODEL.COMPILE = True
        compiled = torch.compile(DetectorProgram(prepare_for_inference(cfg, model)), fullgraph=True)
        runs["torch.compile"] = lambda: compiled(images, sizes)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        with torch.no_grad():
            program(images, sizes)  # tells the names of its outputs
        save_onnx(program, ExportSettings(size=size, batch=1), file, {})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    feed = {"images": images.numpy(), "image_sizes": sizes.numpy()}
    runs["ONNX Runtime"] = lambda: session.run(None, feed)
    for name, times in _measure(runs, args.repeats).items():
        print(f"{name:15} {statistics.median(times):8.0f} ms  ({min(times):.0f} to {max(times):.0f})")


def _measure(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for repeat in range(repeats + 2):  # the first two warm up
            for name, run in runs.items():
                start = time.process_time()
                run()
                if repeat > 1:
                    times[name].append(1e3 * (time.process_time() - start))
    return times


if __name__ == "__main__":
    main()
