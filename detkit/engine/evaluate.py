"""Evaluates a model on the test sets of a config."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from detkit.data import UNREADABLE, DataError, build_test_mapper
from detkit.engine.data_loader import init_worker, pins_memory
from detkit.engine.data_workers import watched_batches
from detkit.engine.exits import Exit, ExitCode
from detkit.engine.prepare import prepare_for_inference
from detkit.engine.run_record import command_line, write_record
from detkit.evaluation import build_evaluator, proposals_in_outputs
from detkit.tta import build_multi_scale_detector

__all__ = ["RESULTS_FILE", "Results", "build_test_loader", "check_expected_results", "evaluate", "keeping_loaders", "save_results"]

logger = logging.getLogger(__name__)

RESULTS_FILE = "results.json"
#: More classes than these are in log.txt and results.json only.
_SHOWN_CLASSES = 20
#: Dataset -> task ("bbox", "segm", "keypoints", "box_proposals") -> metric -> value in percent.
Results = dict[str, dict[str, Any]]


def evaluate(
    cfg: CfgNode,
    model: nn.Module,
    *,
    build_loader: Callable[[CfgNode, str], DataLoader] | None = None,
    before_batch: Callable[[], None] = lambda: None,
    multi_scale: bool = True,
) -> Results:
    """Runs the model on every set of ``DATASETS.TEST`` and saves its detections below ``OUTPUT_DIR/inference``.

    Args:
        model: with its weights as they are trained; see :func:`detkit.engine.prepare.prepare_for_inference` for what runs. Neither they
            nor its mode (training or not) are changed.
        build_loader: makes the batches of a dataset; None: :func:`build_test_loader`.
        before_batch: called before every batch.
        multi_scale: where ``TEST.AUG.ENABLED``, evaluate by multi-scale testing as well. Its results are named as in Detectron2, with
            ``_TTA`` after the task ("bbox_TTA"); its detections go below ``OUTPUT_DIR/inference_TTA``.

    Returns:
        the results, on the first worker; empty ones on the others, and for a set that has no annotations.
    """
    results = {}
    model = prepare_for_inference(cfg, model)
    build_loader = build_loader or build_test_loader
    for name in cfg.DATASETS.TEST:
        loader = build_loader(cfg, name)
        with proposals_in_outputs(model) if cfg.TEST.PROPOSALS else contextlib.nullcontext():
            results[name] = _evaluate_one(model, loader, build_evaluator(cfg, name), name, before_batch, cfg.PATIENCE) or {}
        if multi_scale and cfg.TEST.AUG.ENABLED:
            merged = _evaluate_multi_scale(cfg, model, name, build_loader, before_batch) or {}
            results[name] |= {f"{task}_TTA": metrics for task, metrics in merged.items()}
        if comm.is_main_process():
            _log_results(name, results[name])
    return results


def _evaluate_multi_scale(
    cfg: CfgNode, model: nn.Module, name: str, build_loader: Callable[[CfgNode, str], DataLoader], before_batch: Callable[[], None]
) -> dict[str, Any]:
    detector = build_multi_scale_detector(cfg, model, name)
    full_size = cfg.clone()
    full_size.defrost()
    full_size.INPUT.MIN_SIZE_TEST = 0  # Detectron2's word for images in the size of their files
    evaluator = build_evaluator(cfg, name, Path(cfg.OUTPUT_DIR) / "inference_TTA" / name)
    logger.info("%s: multi-scale testing at %d sizes%s.", name, len(cfg.TEST.AUG.MIN_SIZES), ", also mirrored" * cfg.TEST.AUG.FLIP)
    return _evaluate_one(detector, build_loader(full_size, name), evaluator, f"{name}, multi-scale", before_batch, cfg.PATIENCE)


def _evaluate_one(
    model: nn.Module, loader: DataLoader, evaluator: DatasetEvaluator, name: str, before_batch: Callable[[], None], patience: float
) -> dict[str, Any]:
    show = comm.is_main_process() and sys.stdout.isatty()
    with tqdm(
        _Watched(loader, patience), desc=name, unit="img", leave=False, disable=not show, file=sys.stdout, dynamic_ncols=True
    ) as batches:
        printed = io.StringIO()
        silent = _Silent(evaluator, printed)
        results = inference_on_dataset(model, _Readable(batches, evaluator), silent, callbacks={"before_inference": before_batch})
    logger.debug("%s", printed.getvalue())
    for remark in getattr(evaluator, "remarks", ()):
        logger.warning("%s, %s", name, remark)
    return results


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Detectron2's loader of a test set, with :func:`detkit.data.build_test_mapper` and workers as those of the training."""
    loader = build_detection_test_loader(cfg, dataset_name, mapper=build_test_mapper(cfg))
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=loader.sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=init_worker,
        pin_memory=pins_memory(cfg),
        persistent_workers=cfg.DATALOADER.PERSISTENT_WORKERS and loader.num_workers > 0,
    )


def keeping_loaders(build_loader: Callable[[CfgNode, str], DataLoader]) -> Callable[[CfgNode, str], DataLoader]:
    """Gives the loader of a test set that it has given before, where its workers stay (``DATALOADER.PERSISTENT_WORKERS``)."""
    kept: dict[tuple[str, str], DataLoader] = {}

    def build_or_keep(cfg: CfgNode, dataset_name: str) -> DataLoader:
        if not cfg.DATALOADER.PERSISTENT_WORKERS:
            return build_loader(cfg, dataset_name)
        key = dataset_name, str(cfg)
        if key not in kept:
            kept[key] = build_loader(cfg, dataset_name)
        return kept[key]

    return build_or_keep


class _Watched:
    """The batches of a loader whose workers are looked at."""

    def __init__(self, loader: DataLoader, patience: float) -> None:
        self._loader, self._patience = loader, patience

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        return watched_batches(self._loader, self._patience)


class _Readable:
    """The batches of a loader without the images that could not be read and are to be skipped, which the evaluator leaves out."""

    def __init__(self, batches: Iterable[list[dict[str, Any]]], evaluator: DatasetEvaluator) -> None:
        self._batches, self._evaluator = batches, evaluator

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for batch in self._batches:
            unreadable = [item["image_id"] for item in batch if UNREADABLE in item]
            if unreadable:
                if not hasattr(self._evaluator, "leave_out"):
                    raise DataError(
                        f"The image {unreadable[0]} cannot be read, and {type(self._evaluator).__name__} cannot leave images out "
                        '(DATASETS.ON_BAD_IMAGE "skip"). Correct it, or remove it from the annotations.'
                    )
                self._evaluator.leave_out(unreadable)
            readable = [item for item in batch if UNREADABLE not in item]
            if readable:
                yield readable


class _Silent(DatasetEvaluator):
    """An evaluator whose prints (pycocotools prints a table of its own) go elsewhere."""

    def __init__(self, evaluator: DatasetEvaluator, into: io.StringIO) -> None:
        self._evaluator, self._into = evaluator, into

    def reset(self) -> None:
        self._evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        self._evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any] | None:
        with contextlib.redirect_stdout(self._into):
            return self._evaluator.evaluate()


def _log_results(dataset: str, results: dict[str, Any]) -> None:
    for task, metrics in results.items():
        if metrics and all(math.isnan(value) for value in metrics.values()):
            continue  # the evaluator has said why
        per_class = {name.removeprefix("AP-"): value for name, value in metrics.items() if name.startswith("AP-")}
        logger.info("%s, %s: %s", dataset, task, _row({name: value for name, value in metrics.items() if not name.startswith("AP-")}))
        if 0 < len(per_class) <= _SHOWN_CLASSES:
            logger.info("%s, %s, AP of the classes: %s", dataset, task, _row(per_class))


def _row(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.2f}" for name, value in metrics.items())


def save_results(cfg: CfgNode, results: Results, *, weights: str, iteration: int | None = None) -> Path:
    """Writes ``OUTPUT_DIR/results.json``: the metrics and all that is needed to measure them again."""
    path = Path(cfg.OUTPUT_DIR) / RESULTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path, {"results": results, "weights": weights, "iteration": iteration, "command": command_line(), "config": cfg})
    return path


def check_expected_results(cfg: CfgNode, results: Results) -> None:
    """Compares the results on the first test set with ``TEST.EXPECTED_RESULTS``: ``[[task, metric, value, tolerance], ...]``.

    Raises:
        Exit: one of them is missing or further off than its tolerance.
    """
    if not len(cfg.TEST.EXPECTED_RESULTS):
        return
    found = results.get(cfg.DATASETS.TEST[0], {}) if len(cfg.DATASETS.TEST) else {}
    misses = []
    for task, metric, expected, tolerance in cfg.TEST.EXPECTED_RESULTS:
        value = found.get(task, {}).get(metric)
        if value is None or not abs(value - expected) <= tolerance:
            misses.append(f"{task} {metric} is {value if value is None else round(value, 2)}, expected {expected} +- {tolerance}")
    if misses:
        message = f"TEST.EXPECTED_RESULTS: {'; '.join(misses)}."
        print(message, file=sys.stderr)
        raise Exit(message, ExitCode.RESULTS)
    logger.info("The results are as expected (TEST.EXPECTED_RESULTS).")
