#!/usr/bin/env python
"""Analyses that need no training, and analyses of what a training left behind. Tables go to the console, numbers and plots to a folder.

python tools/analyze.py recall      --dataset coco_2017_val
python tools/analyze.py ambiguous   --dataset coco_2017_val --config-files FCOS.yaml --opts MODEL.WEIGHTS model_final.pth
python tools/analyze.py positives   --dataset coco_2017_val
python tools/analyze.py assigners   --dataset coco_2017_val --image 139 --config-files A.yaml B.yaml
python tools/analyze.py weightings  --dataset coco_2017_val --image 139 --config-files DW.yaml --opts MODEL.WEIGHTS model_final.pth
python tools/analyze.py precision   --dataset coco_2017_val FCOS=fcos/coco_instances_results.json ATSS=...
python tools/analyze.py scores      --dataset coco_2017_val plain=... with-centerness=...
python tools/analyze.py convergence FCOS=output/fcos ATSS=output/atss
python tools/analyze.py contours    --dataset coco_2017_val
python tools/analyze.py landmarks   --dataset coco_2017_val --image 139 --config-file LSNET.yaml --opts MODEL.WEIGHTS model_final.pth
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import detkit.engine  # noqa: F401  before the others: it silences what dependencies say when they are imported

# isort: split
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from tqdm import tqdm

from detkit import analysis
from detkit.assigners import ATSSAssigner
from detkit.checkpoint import load_weights
from detkit.config import check_config, get_cfg, method_node, usable_device
from detkit.data import find_image_folder, read_coco_json, register_coco_folder
from detkit.dense import DenseDetector, PriorGenerator
from detkit.evaluation import read_detections, read_ground_truth
from detkit.geometry import square_anchors
from lsnet.analysis import PAPER_BOUND, contour_bound
from lsnet.pictures import detect_with_stages, labeled_input, stages_figure
from lsnet.several_tasks import build_task

#: FCOS, Tables 1 and 2, on the 5000 images of COCO minival: best possible recall, ambiguous samples, those across classes, in percent
PAPER = {
    "FCOS": (98.40, 7.14, 3.75),
    "FCOS, P4 only": (95.55, 23.16, 17.84),
    "RetinaNet, no low-quality matches": (86.82, None, None),
    "RetinaNet, low-quality matches from 0.4": (90.92, None, None),
    "RetinaNet, all low-quality matches": (99.23, None, None),
}


Command = Callable[[argparse.Namespace], None]
Option = Callable[[argparse.ArgumentParser], Any]

#: the sub-commands, each with what adds its options to a parser
_COMMANDS: list[tuple[Command, tuple[Option, ...]]] = []


def command(*options: Option) -> Callable[[Command], Command]:
    """Makes a function the sub-command of its name; its docstring is the help."""

    def register(function: Command) -> Command:
        _COMMANDS.append((function, options))
        return function

    return register


def option(name: str, **settings: Any) -> Option:
    """An option or a positional argument, with the words of :mod:`argparse`."""
    return lambda parser: parser.add_argument(name, **settings)


DATASET = option("--dataset", required=True, help="name of a registered dataset, or a COCO json")
IMAGE = option("--image", required=True, help="id or file name")
SIZES = (
    option("--min-size", type=int, default=800, help="shorter side of the images"),
    option("--max-size", type=int, default=1333, help="longer side at most"),
)
OPTS = option("--opts", nargs="+", default=[], metavar="KEY VALUE", help="overrides of config keys, for all configs; MODEL.WEIGHTS FILE")
CONFIGS = (option("--config-files", nargs="+", type=Path, default=[], help="whose detectors are looked at"), OPTS)
PAPERS_OR_CONFIGS = (option("--config-files", nargs="+", type=Path, default=[], help="default: the settings of the paper's table"), OPTS)
DETECTIONS = option("files", nargs="+", metavar="NAME=PATH", help="detections in COCO's result format")


@command(DATASET, *SIZES, *PAPERS_OR_CONFIGS)
def recall(args: argparse.Namespace) -> None:
    """Best possible recall and ambiguous samples (FCOS, Tables 1 and 2)."""
    images = list(analysis.labeled_images(_records(args.dataset), min_size=args.min_size, max_size=args.max_size))
    papers_own = [
        analysis.fcos(),
        analysis.fcos(single_level=4),
        *(analysis.retinanet(low_quality_from=iou) for iou in (None, 0.4, 0.0)),
    ]
    rows = {}
    for setting in _settings(args) or papers_own:
        bound = analysis.recall_bound(setting, tqdm(images, desc=setting.name, leave=False, disable=None))
        paper = PAPER.get(setting.name, (None, None, None))
        rows[setting.name] = {
            "objects": bound.objects,
            "recall %": bound.best_possible_recall,
            "recall % (paper)": paper[0],
            "samples": bound.samples,
            "ambiguous %": bound.ambiguous_share,
            "ambiguous % (paper)": paper[1],
            "across classes %": bound.ambiguous_classes_share,
            "across classes % (paper)": paper[2],
        }
    _deliver(args, rows, f"{len(images)} images with objects")


@command(DATASET, *CONFIGS)
def ambiguous(args: argparse.Namespace) -> None:
    """The share of detections that come from ambiguous locations (FCOS, section 4.1.1: 2.3 %, across classes 1.5 %)."""
    records = [record for record in _records(args.dataset) if record["annotations"]]
    rows = {}
    for name, cfg in _named_configs(args).items():
        models, _, _ = _models({name: cfg}, records[0])
        mapper = _test_size_mapper(cfg)
        found = analysis.ambiguous_detections(models[name].eval(), map(mapper, tqdm(records, desc=name, leave=False, disable=None)))
        rows[name] = {
            "detections": found.detections,
            "ambiguous %": found.share,
            "ambiguous % (paper)": 2.3,
            "across classes %": found.classes_share,
            "across classes % (paper)": 1.5,
        }
    _deliver(args, rows, f"{len(records)} images with objects")


@command(DATASET, *SIZES, *PAPERS_OR_CONFIGS)
def positives(args: argparse.Namespace) -> None:
    """Positives per object by size and by level (ATSS, section 4.1)."""
    images = list(analysis.labeled_images(_records(args.dataset), min_size=args.min_size, max_size=args.max_size))
    strides = analysis.fcos().strides
    atss = analysis.AssignmentSetting("ATSS", ATSSAssigner(), PriorGenerator(strides=strides, cell_anchors=square_anchors(strides)))
    settings = _settings(args) or [atss, analysis.fcos(), analysis.fcos(center_radius=1.5)]
    counts = {s.name: analysis.count_positives(s, tqdm(images, desc=s.name, leave=False, disable=None)) for s in settings}
    rows = {f"{name}, {size}": row for name, each in counts.items() for size, row in each.rows().items()}
    analysis.save_figure(analysis.plot_positives(counts), args.output_dir / "positives.png")
    _deliver(args, rows, "positives per object")


@command(DATASET, IMAGE, *CONFIGS)
def assigners(args: argparse.Namespace) -> None:
    """What several assigners pick on one image, side by side."""
    record = _record(args)
    models, batched_input, channels = _models(_named_configs(args), record)
    analysis.save_figure(analysis.compare_assigners(models, batched_input, channels=channels), args.output_dir / "assigners.png")
    print(args.output_dir / "assigners.png")


@command(
    DATASET,
    IMAGE,
    *CONFIGS,
    option("--assigners", nargs="+", default=["DWAssigner", "GFLAssigner", "VFLAssigner"], help="one row of maps each"),
    option("--object", type=int, help="number of the object in the image, default: the largest"),
)
def weightings(args: argparse.Namespace) -> None:
    """What weightings make of one object: maps of score, IoU and weights; curves and formulas of DW (DW, Figures 3 and 5)."""
    record, configs = _record(args), {}
    for name, cfg in _named_configs(args).items():
        for assigner in args.assigners:
            weighting = assigner.removesuffix("Assigner")
            configs[weighting if len(args.config_files) == 1 else f"{name}, {weighting}"] = variant = cfg.clone()
            node = method_node(cfg)
            if "ASSIGNER" not in node:
                raise ValueError(f"{name}: {cfg.MODEL.META_ARCHITECTURE} has no assigner that could be exchanged.")
            variant.merge_from_list([f"{node.path}.ASSIGNER", assigner])
    models, batched_input, channels = _models(configs, record)
    boxes = batched_input["instances"].gt_boxes
    chosen = int(boxes.area().argmax()) if args.object is None else args.object
    maps = {name: analysis.weight_maps(model, batched_input, gt_index=chosen) for name, model in models.items()}
    image = batched_input["image"].numpy().transpose(1, 2, 0)[..., :: 1 if channels == "RGB" else -1]
    strides = next(iter(models.values())).prior_generator.strides
    analysis.save_figure(analysis.plot_weight_maps(maps, image, boxes.tensor[chosen], strides), args.output_dir / "weight_maps.png")
    analysis.save_figure(analysis.plot_negative_probability(), args.output_dir / "negative_probability.png")
    _deliver(args, analysis.formula_rows(), "DW's formulas")


@command(DATASET, DETECTIONS)
def precision(args: argparse.Namespace) -> None:
    """Class-agnostic precision-recall curves (FCOS, Figures 4 to 6 and Table 7)."""
    ground_truth = read_ground_truth(_json_file(args.dataset))
    files = {name: read_detections(path, ground_truth) for name, path in _named(args.files).items()}
    results = {name: analysis.class_agnostic_precision(ground_truth, detections) for name, detections in files.items()}
    analysis.save_figure(analysis.plot_precision(results), args.output_dir / "precision.png")
    _deliver(args, {name: result.table() | {"AP90": result.ap(iou=0.9)} for name, result in results.items()}, "all classes taken for one")


@command(DATASET, DETECTIONS)
def scores(args: argparse.Namespace) -> None:
    """Score against IoU of every detection (FCOS, Figure 7)."""
    ground_truth = read_ground_truth(_json_file(args.dataset))
    files = {name: read_detections(path, ground_truth) for name, path in _named(args.files).items()}
    results = {name: analysis.scores_and_overlaps(ground_truth, detections) for name, detections in files.items()}
    analysis.save_figure(analysis.plot_scores(results), args.output_dir / "scores.png")
    _deliver(args, {name: result.row() for name, result in results.items()}, "detections")


@command(
    option("files", nargs="+", metavar="NAME=PATH", help="run folders or metrics.json files"),
    option("--metric", default="bbox/AP"),
    option("--iterations-per-epoch", type=float),
)
def convergence(args: argparse.Namespace) -> None:
    """AP over the training of several runs (Sparse R-CNN, Figure 2)."""
    runs = {name: analysis.read_convergence(path, args.metric) for name, path in _named(args.files).items()}
    figure = analysis.plot_convergence(runs, metric=args.metric, iterations_per_epoch=args.iterations_per_epoch)
    analysis.save_figure(figure, args.output_dir / "convergence.png")
    rows = {
        name: {"evaluations": len(run.values), "first": run.values[0], "best": run.values.max(), "last": run.values[-1]}
        for name, run in runs.items()
    }
    _deliver(args, rows, args.metric)


@command(DATASET, option("--landmarks", nargs="+", type=int, default=list(PAPER_BOUND), help="per contour"))
def contours(args: argparse.Namespace) -> None:
    """The mask AP that contours of a few landmarks can reach at best (LSNet, section 4.4)."""
    ground_truth = read_ground_truth(_json_file(args.dataset))
    rows: dict[str, dict[str, Any]] = {}
    for count in tqdm(args.landmarks, leave=False, disable=None):
        apart, largest = (contour_bound(ground_truth, count, parts) for parts in ("all", "largest"))
        columns = {"every part": apart.ap(), "every part (paper)": PAPER_BOUND.get(count), "largest part": largest.ap()}
        rows[f"{count} landmarks"] = columns | {f"largest, {name}": value for name, value in largest.table().items() if name != "AP"}
    _deliver(args, rows, "mask AP")


@command(
    DATASET,
    IMAGE,
    option("--config-file", dest="config_files", nargs=1, type=Path, required=True, help="of an LSNet"),
    option("--score-thresh", type=float, default=0.3),
    option("--opts", nargs="+", default=[], metavar="KEY VALUE", help="overrides; without MODEL.WEIGHTS the objects alone"),
)
def landmarks(args: argparse.Namespace) -> None:
    """The landmarks of an image's objects, and what both stages of LSNet find."""
    (cfg,) = _configs(args).values()
    cfg.DATASETS.TRAIN = (_registered(args.dataset),)
    record = _record(args)
    inputs = labeled_input(cfg, record)
    found = None
    if cfg.MODEL.WEIGHTS:
        cfg.MODEL.DEVICE = usable_device(cfg.MODEL.DEVICE)
        model = build_model(cfg).eval()
        load_weights(model, cfg.MODEL.WEIGHTS, strict=True)
        found = detect_with_stages(model, inputs["image"], score_thresh=args.score_thresh)
    figure = stages_figure(inputs, found, build_task(cfg), image_format=cfg.INPUT.FORMAT, dataset_name=cfg.DATASETS.TRAIN[0])
    analysis.save_figure(figure, args.output_dir / "landmarks.png")
    print(args.output_dir / "landmarks.png")


def _deliver(args: argparse.Namespace, rows: dict[str, dict[str, Any]], head: str) -> None:
    path = args.output_dir / f"{args.command}.json"
    analysis.save_numbers(rows, path)
    print(analysis.markdown_table(rows, head=head))
    print(f"\n{path}")


def _named_configs(args: argparse.Namespace) -> dict[str, Any]:
    if not args.config_files:
        raise ValueError("--config-files: name the configs whose detectors are to be looked at.")
    return _configs(args)


def _configs(args: argparse.Namespace) -> dict[str, Any]:
    """The configs by name, with weights where these are of a trained detector: an address in a file is the start of a backbone."""
    if args.opts and not args.config_files:
        raise ValueError("--opts: name the configs that they belong to, by --config-files.")
    configs = {}
    for path in args.config_files:
        cfg = get_cfg()
        cfg.merge_from_file(str(path))
        if "://" in cfg.MODEL.WEIGHTS:
            cfg.MODEL.WEIGHTS = ""
        cfg.merge_from_list(args.opts)
        check_config(cfg)
        alike = sum(other.stem == path.stem for other in args.config_files) > 1
        configs[f"{path.resolve().parent.name}/{path.stem}" if alike else path.stem] = cfg
    return configs


def _models(configs: dict[str, Any], record: dict[str, Any]) -> tuple[dict[str, DenseDetector], dict[str, Any], str]:
    """The detectors, with their weights where these are named, the image as for training, and its order of channels."""
    models: dict[str, DenseDetector] = {}
    for name, cfg in configs.items():
        cfg.MODEL.DEVICE = usable_device(cfg.MODEL.DEVICE)
        model = build_model(cfg)
        if not isinstance(model, DenseDetector):
            raise ValueError(f"{name}: {cfg.MODEL.META_ARCHITECTURE} has no grid that an assigner could pick from.")
        if cfg.MODEL.WEIGHTS:
            load_weights(model, cfg.MODEL.WEIGHTS, strict=True)
        else:
            print(f"{name}: no weights are named (--opts MODEL.WEIGHTS FILE), so the detector is a random one.", file=sys.stderr)
        models[name] = model
    cfg = next(iter(configs.values()))
    batched_input = _test_size_mapper(cfg)(record)
    if batched_input is None:
        raise ValueError(f"{record['file_name']}: the image has no objects.")
    return models, batched_input, cfg.INPUT.FORMAT


def _test_size_mapper(cfg: CfgNode) -> DatasetMapper:
    """Reads an image and its objects at the size of testing."""
    resize = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    return DatasetMapper(is_train=True, augmentations=[resize], image_format=cfg.INPUT.FORMAT)


def _settings(args: argparse.Namespace) -> list[analysis.AssignmentSetting]:
    return [analysis.AssignmentSetting.from_config(cfg, name) for name, cfg in _configs(args).items()]


def _records(dataset: str) -> list[dict[str, Any]]:
    return DatasetCatalog.get(_registered(dataset))


def _record(args: argparse.Namespace) -> dict[str, Any]:
    """The image of ``--image``."""
    records = [r for r in _records(args.dataset) if args.image in (str(r["image_id"]), Path(r["file_name"]).name)]
    if not records:
        raise ValueError(f"--image {args.image}: {args.dataset} has no image of this id or file name.")
    return records[0]


def _json_file(dataset: str) -> str:
    name = _registered(dataset)
    if name.startswith("shapes_"):
        DatasetCatalog.get(name)  # makes the files
    return MetadataCatalog.get(name).json_file


def _registered(dataset: str) -> str:
    """The name of a registered dataset; a COCO json is registered under its own path."""
    if dataset in DatasetCatalog.list():
        return dataset
    path = Path(dataset)
    if not path.is_file():
        raise ValueError(f"--dataset {dataset}: neither a registered dataset nor a COCO json (COCO itself lies below DETECTRON2_DATASETS).")
    images = read_coco_json(path)["images"]
    if not images:
        raise ValueError(f"--dataset {dataset}: the file lists no images.")
    register_coco_folder(dataset, path, find_image_folder(path, images[0]["file_name"]))
    return dataset


def _named(files: Sequence[str]) -> dict[str, Path]:
    """``name=path`` pairs; a path alone is called after its folder."""
    named = {}
    for item in files:
        name, _, path = item.rpartition("=")
        named[name or Path(path).parent.name or path] = Path(path)
    return named


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for function, options in _COMMANDS:
        sub = commands.add_parser(function.__name__, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(run=function)
        sub.add_argument("--output-dir", type=Path, default=Path("output/analysis"))
        for add in options:
            add(sub)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one analysis.

    Raises:
        SystemExit: bad input, with one message that names the option or file and the remedy.
    """
    args = parse(argv)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
