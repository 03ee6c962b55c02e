"""Training and evaluation from a command line."""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NoReturn

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils import comm

from detkit.checkpoint import CheckpointFolder, load_weights, read_checkpoint
from detkit.config import ConfigError
from detkit.data import DataError, prepare_datasets, write_copies
from detkit.distributed import get_rank
from detkit.engine.allocator import keep_freed_memory
from detkit.engine.console import open_log_file, setup_logging
from detkit.engine.evaluate import Results, check_expected_results, evaluate, save_results
from detkit.engine.launch import check_processes, launch
from detkit.engine.setup import read_config, resolve_config
from detkit.engine.trainer import Trainer
from detkit.evaluation import EvaluationError
from detkit.tta import check_tta_config

__all__ = ["main", "run"]

logger = logging.getLogger(__name__)

#: What bad input raises before training; anything else is a defect and shows its traceback.
_INPUT_ERRORS = (ValueError, OSError, KeyError)
#: What stops a training or an evaluation and explains itself.
_TRAINING_ERRORS = (FloatingPointError, DataError, EvaluationError, ConfigError, OSError)
#: How torch says that a data worker was ended from outside.
_WORKER_KILLED = re.compile(r"DataLoader worker \(pid[^)]*\) (?:is killed by signal: (.*?)\.? ?$|exited unexpectedly)", re.MULTILINE)
#: How torch and NumPy say that there is no more memory on the host.
_NO_MEMORY = re.compile(r"can't allocate memory|Unable to allocate|not enough memory", re.IGNORECASE)
#: Seconds that the other workers wait for rank 0 to report an error.
_PATIENCE = 15.0


def run(argv: Sequence[str] | None = None) -> None:
    """Runs a command line of Detectron2's ``default_argument_parser`` in as many workers as it asks for.

    Raises:
        SystemExit: bad input, with one message that says what and where; or the training was asked to stop.
    """
    args = default_argument_parser().parse_args(argv)
    with _one_clear_error(_INPUT_ERRORS):
        device = torch.device(read_config(args).MODEL.DEVICE).type
        machines = {"num_machines": args.num_machines, "machine_rank": args.machine_rank, "device": device}
        check_processes(args.num_gpus, **machines)
    launch(main, args.num_gpus, **machines, dist_url=args.dist_url, args=(args,))


def main(args: argparse.Namespace) -> Results:
    """What every worker does with a parsed command line; for one process also from Python.

    Returns:
        the results of the evaluation, on the first worker.
    """
    with _one_clear_error(_INPUT_ERRORS):
        cfg = _set_up(args)
        if args.eval_only:
            model, weights = _load_for_evaluation(cfg, resume=args.resume)
        else:
            trainer = Trainer(cfg)
            trainer.resume_or_load(resume=args.resume)
            trainer.data_loader  # noqa: B018  made now, so that faults of the data are reported before training starts
    if not args.eval_only:
        with _one_clear_error(_TRAINING_ERRORS):
            return trainer.train()
    open_log_file()
    with _one_clear_error(_TRAINING_ERRORS):
        if comm.is_main_process():
            write_copies()
        results = evaluate(cfg, model, build_loader=Trainer.build_test_loader)
        if comm.is_main_process():
            save_results(cfg, results, weights=weights)
            check_expected_results(cfg, results)
        return results


def _set_up(args: argparse.Namespace) -> CfgNode:
    """Logging, the datasets and the resolved config."""
    cfg = read_config(args)
    setup_logging(cfg.OUTPUT_DIR, get_rank())
    if cfg.MODEL.DEVICE == "cpu" and not torch.cuda.is_available():
        logger.info("There is no CUDA device: running on the CPU (MODEL.DEVICE cpu).")
    if cfg.TEST.AUG.ENABLED:
        check_tta_config(cfg)
    with _first_worker_first():  # it writes the files that the others read
        prepare_datasets(cfg, eval_only=args.eval_only, write=False)
    cfg = resolve_config(cfg, given=(args.opts or [])[0::2])
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not args.eval_only
    return cfg


def _load_for_evaluation(cfg: CfgNode, *, resume: bool) -> tuple[torch.nn.Module, str]:
    """The model and the name of its weights: the last checkpoint of the run with ``--resume``, else ``MODEL.WEIGHTS``."""
    model = Trainer.build_model(cfg)
    found = CheckpointFolder(cfg.OUTPUT_DIR).load_last(read_checkpoint) if resume else None
    weights = str(found[0]) if found else cfg.MODEL.WEIGHTS
    if not weights:
        raise ValueError("--eval-only: there is nothing to evaluate. Name a checkpoint: MODEL.WEIGHTS output/model_final.pth.")
    load_weights(model, weights, strict=True)
    return model, weights


@contextlib.contextmanager
def _first_worker_first() -> Iterator[None]:
    if not comm.is_main_process():
        comm.synchronize()
    yield
    if comm.is_main_process():
        comm.synchronize()


@contextlib.contextmanager
def _one_clear_error(errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """These errors end the process with their message alone, said once; the traceback stands in ``log.txt``, unless the
    start was to replace a run and has not been accepted."""
    try:
        yield
    except errors as error:
        _stop(_message(error))
    except MemoryError as error:
        _stop(_out_of_memory(error))
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or _NO_MEMORY.search(str(error)):
            _stop(_out_of_memory(error))
        killed = _WORKER_KILLED.search(str(error))
        if killed is None:
            raise
        _stop(
            f"A data worker was ended from outside ({killed.group(1) or 'it exited unexpectedly'}). Usually the memory is full: set "
            "DATALOADER.NUM_WORKERS lower, or give the machine or container more (shared) memory."
        )


def _out_of_memory(error: Exception) -> str:
    wanted = re.search(r"tried to allocate ([\d.]+ ?\w+)|allocate ([\d.]+ ?\w+) for", str(error), re.IGNORECASE)
    amount = f" ({wanted.group(1) or wanted.group(2)} were asked for at once)" if wanted else ""
    return (
        f"The memory is full{amount}. What takes most: the batch (SOLVER.IMS_PER_BATCH; SOLVER.ACCUMULATE computes it in parts), the size "
        "of images (INPUT.MAX_SIZE_TRAIN, INPUT.MAX_SIZE_TEST), widths and the number of classes of the model. The traceback is in log.txt."
    )


def _message(error: Exception) -> str:
    """The message of an error; of one that a data worker passed on, without the traceback that torch puts before it."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if not text.startswith("Caught ") or "Original Traceback" not in text:
        return text
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return text.rpartition(f"\n{name}: ")[2].strip()


def _stop(message: str) -> NoReturn:
    """Ends the process: rank 0 reports errors that all workers share, and its exit ends the others."""
    logger.debug("Stopped by:", exc_info=True)
    open_log_file(lambda folder: not CheckpointFolder(folder).used)
    if get_rank() == 0:
        sys.exit(f"error: {message}")
    time.sleep(_PATIENCE)
    sys.exit(f"error in worker {get_rank()}: {message}")
