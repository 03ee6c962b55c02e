"""Small data made better: what each change to the quick configs of Sparse R-CNN and LSNet is worth on a small dataset, alone and together.

    python benchmarks/recipes.py --train-json DIR/annotations/train.json --val-json DIR/annotations/val.json \\
        --methods sparsercnn sparsercnn-matches --seeds 0 1 2 --threads 1

``sparsercnn``, ``lsnet`` and ``fcos`` are ``configs/quick/<name>_mobilenetv2.yaml`` as they are, ``<method>-<change>`` the same with one
change of ``CHANGES``, ``<method>-recipe`` is ``configs/quick/<method>_small_data.yaml``. Runs go in the order of ``--methods``, all of them
unless some are named. How runs are kept, and go on: ``benchmarks/trainings.py``. What was found: docs/small-data.md.
"""

from __future__ import annotations

from typing import Any

from trainings import Run, digest, method_cells, method_changes, parse_arguments, print_table, trainings_of

METRICS = ("AP", "AP50", "AP75")

#: what may be changed in either method
_COMMON: dict[str, dict[str, Any]] = {
    "backbone": {"MODEL.BACKBONE.FREEZE_AT": 1, "SOLVER.PARAMETER_FACTORS": [["backbone.bottom_up.", 0.1]]},
    "average": {"SOLVER.EMA.ENABLED": True},
    "cosine": {"SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR"},
    "jitter": {"INPUT.MIN_SIZE_TRAIN": (192, 224, 256, 288, 320)},
    "crop": {"INPUT.CROP.ENABLED": True, "INPUT.CROP.TYPE": "relative_range", "INPUT.CROP.SIZE": [0.7, 0.7]},
}
#: method -> name of a change -> keys that differ
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "sparsercnn": {
        "matches": {"MODEL.SPARSE_RCNN.MATCHES_PER_OBJECT": [4, 2]},
        "denoising": {"MODEL.SPARSE_RCNN.DENOISING.COPIES": 4},
        "scales": {"MODEL.SPARSE_RCNN.PROPOSAL_INIT": "scales"},
        "norm": {"MODEL.FPN.NORM": "GN"},
        "rate": {"SOLVER.BASE_LR": 0.002},
        "batch": {"SOLVER.IMS_PER_BATCH": 2, "SOLVER.REFERENCE_BATCH_SIZE": 2, "SOLVER.MAX_ITER": 1200, "SOLVER.STEPS": (960, 1120)},
        "longer": {"SOLVER.MAX_ITER": 1500, "SOLVER.STEPS": (1200, 1400)},
        **_COMMON,
    },
    "lsnet": {
        "rate": {"SOLVER.BASE_LR": 0.001},
        "warmup": {"SOLVER.WARMUP_ITERS": 100},
        "longer": {"SOLVER.MAX_ITER": 800, "SOLVER.STEPS": (600, 750)},
        **_COMMON,
    },
    "fcos": {},
}


def runs() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name of the config and keys that differ, by the name of the run."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for method, changes in CHANGES.items():
        found[method] = f"{method}_mobilenetv2", {}
        found |= {f"{method}-{name}": (f"{method}_mobilenetv2", keys) for name, keys in changes.items()}
        if changes:
            found[f"{method}-recipe"] = f"{method}_small_data", {}
    return found


def main() -> None:
    names = runs()
    args = parse_arguments(__doc__, list(names), "output/benchmarks/recipes")
    trainings = trainings_of(args)

    def measure(name: str, what: Run) -> Run:
        config, changes = names[what["method"]]
        results = trainings.train(config, name, method_changes(config, what, args, changes))
        return {**{metric: results["bbox"][metric] for metric in METRICS}, "step_ms": results["step_ms"]}

    cells = method_cells(args)
    for what in cells.values():
        config, changes = names[what["method"]]
        what["keys"] = digest(config, changes)
    print_table(trainings.collect(cells, measure), list(names), METRICS)


if __name__ == "__main__":
    main()
