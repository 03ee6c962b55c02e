"""How many parameters has the detector of a config, and how many multiply-adds does an image take, by fvcore?

    python benchmarks/flops.py --config-file configs/sparsercnn/sparsercnn_R_50_FPN_100pro_3x.yaml [--size 800 1280]

Counts convolutions, matrix products and norms, in units of 10^9. What fvcore cannot count (RoIAlign, the products inside attention) is
named at the end. Runs on the CPU, with random weights.
"""

from __future__ import annotations

import argparse

import torch
from detectron2.modeling import build_model
from detectron2.utils.analysis import FlopCountAnalysis

from detkit.config import get_cfg
from detkit.export import DetectorProgram


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1280), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of config keys")
    args = parser.parse_args()
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list([*args.opts, "MODEL.WEIGHTS", "", "MODEL.BACKBONE.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    torch.backends.mha.set_fastpath_enabled(False)  # one operator for all of an attention layer, which fvcore does not know
    counts = FlopCountAnalysis(DetectorProgram(model), (torch.rand(1, 3, *args.size), torch.tensor([args.size])))
    counts.uncalled_modules_warnings(False)
    counts.unsupported_ops_warnings(False)
    print(f"parameters        {sum(p.numel() for p in model.parameters()) / 1e6:10.2f} million")
    for name, value in counts.by_module().items():
        part = name.removeprefix("model.model")
        if part != name and part.count(".") <= 1 and value > 0:
            print(f"{part.lstrip('.') or 'all':17} {value / 1e9:10.2f}")
    print("not counted:", ", ".join(f"{name} ({count})" for name, count in counts.unsupported_ops().items()))


if __name__ == "__main__":
    main()
