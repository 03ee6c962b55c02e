"""Training and evaluation from a command line."""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils import comm

from detkit.checkpoint import CheckpointFolder, load_weights, read_checkpoint
from detkit.config import ConfigError
from detkit.data import DataError, prepare_datasets, write_copies
from detkit.distributed import get_rank, get_world_size
from detkit.engine.allocator import keep_freed_memory
from detkit.engine.console import close_log_file, open_log_file, setup_logging
from detkit.engine.data_workers import DataWorkerLostError
from detkit.engine.elastic import fit_batch_to_workers, is_restart
from detkit.engine.evaluate import Results, check_expected_results, evaluate, save_results
from detkit.engine.exits import Exit, exit_code_of, interruptible
from detkit.engine.launch import LaunchError, check_processes, launch
from detkit.engine.peers import claim_end, leave_if_others_end
from detkit.engine.remote_output import is_remote, mirrored, working_folder
from detkit.engine.run_folder import RunFolderError, check_folder, folder_in_use
from detkit.engine.setup import read_config, resolve_config
from detkit.engine.trainer import Trainer
from detkit.evaluation import EvaluationError
from detkit.tta import check_tta_config

__all__ = ["main", "run"]

logger = logging.getLogger(__name__)

#: What bad input raises before training; anything else is a defect and shows its traceback.
_INPUT_ERRORS = (ValueError, OSError, KeyError, MemoryError, DataWorkerLostError)
#: What stops a training or an evaluation and explains itself.
_TRAINING_ERRORS = (FloatingPointError, DataError, EvaluationError, ConfigError, OSError, MemoryError, DataWorkerLostError)
#: How torch says that there is not enough memory, on a CPU and on a GPU.
_NO_MEMORY = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)


def run(argv: Sequence[str] | None = None) -> None:
    """Runs a command line of Detectron2's ``default_argument_parser`` in as many workers as it asks for.

    Raises:
        SystemExit: bad input, with one message that says what and where; or the training was asked to stop.
    """
    with interruptible():
        _run(argv)


def _run(argv: Sequence[str] | None) -> None:
    args = _parser().parse_args(argv)
    close_log_file()  # of an earlier run in this process
    with _one_clear_error(_INPUT_ERRORS):
        cfg = read_config(args)
        _check_there_is_something_to_do(args, cfg)
        machines = {"num_machines": args.num_machines, "machine_rank": args.machine_rank, "device": torch.device(cfg.MODEL.DEVICE).type}
        check_processes(args.num_gpus, **machines)
        if args.num_gpus > 1 and "cuda" in _asked_device(args) and not torch.cuda.is_available():
            raise ConfigError(
                f"--num-gpus {args.num_gpus} MODEL.DEVICE cuda: this machine has no CUDA device. Give MODEL.DEVICE cpu to run as many "
                "processes on the CPU."
            )
    with _one_clear_error((LaunchError,)):
        launch(main, args.num_gpus, **machines, dist_url=args.dist_url, patience=cfg.PATIENCE, args=(args,))


def _asked_device(args: argparse.Namespace) -> str:
    """The MODEL.DEVICE of the command line."""
    opts = args.opts or []
    return str(next((value for key, value in zip(opts[0::2], opts[1::2], strict=False) if key == "MODEL.DEVICE"), ""))


def _check_there_is_something_to_do(args: argparse.Namespace, cfg: CfgNode) -> None:
    if not args.config_file and not args.opts:
        raise ConfigError(
            "There is nothing to train: name a config, for instance --config-file configs/quick/fcos_shapes.yaml. --help shows the options."
        )


def _parser() -> argparse.ArgumentParser:
    """Detectron2's, without what its help says of LazyConfigs, which are refused here."""
    parser = default_argument_parser()
    parser.set_defaults(dist_url="auto")  # Detectron2's is a port that is the same for all runs of a user
    for action in parser._actions:
        if action.dest == "opts":
            action.help, action.metavar = "overrides of config keys at the end of the command: SOLVER.BASE_LR 0.01", "KEY VALUE"
    return parser


def main(args: argparse.Namespace) -> Results:
    """What every worker does with a parsed command line; for one process also from Python.

    Returns:
        the results of the evaluation, on the first worker.
    """
    with contextlib.ExitStack() as stack:
        return _main(args, stack)


def _main(args: argparse.Namespace, stack: contextlib.ExitStack) -> Results:
    with _one_clear_error(_INPUT_ERRORS):
        cfg = _set_up(args, stack)
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


def _set_up(args: argparse.Namespace, stack: contextlib.ExitStack) -> CfgNode:
    """Logging, the output folder for as long as the stack is open, the datasets and the resolved config."""
    cfg = read_config(args)
    if is_remote(cfg.OUTPUT_DIR):
        address, folder = cfg.OUTPUT_DIR, working_folder(cfg.OUTPUT_DIR)
        cfg.OUTPUT_DIR = str(folder)
        stack.enter_context(mirrored(address, folder, send=comm.is_main_process()))
    setup_logging(cfg.OUTPUT_DIR, get_rank())
    check_folder(cfg.OUTPUT_DIR)
    if comm.is_main_process():
        stack.enter_context(folder_in_use(cfg.OUTPUT_DIR))
    if cfg.MODEL.DEVICE == "cpu" and not torch.cuda.is_available():
        how = "running on the CPU" if get_world_size() == 1 else f"running {get_world_size()} processes on the CPU"
        logger.info("There is no CUDA device: %s (MODEL.DEVICE cpu).", how)
    if cfg.TEST.AUG.ENABLED:
        check_tta_config(cfg)
    with _first_worker_first():  # it writes the files that the others read
        prepare_datasets(cfg, eval_only=args.eval_only, write=False)
    if is_restart(cfg.OUTPUT_DIR) and not args.resume:
        logger.info("torchrun has started the workers again: going on from the last checkpoint, as with --resume.")
        args.resume = True
    cfg = resolve_config(cfg, given=(args.opts or [])[0::2])
    if args.resume and not args.eval_only:
        cfg.defrost()
        fit_batch_to_workers(cfg)
        cfg.freeze()
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
        _stop(error, _message(error))
    except RuntimeError as error:
        if not _NO_MEMORY.search(str(error)):
            raise
        _stop(MemoryError(), f"{_message(error).splitlines()[0]}. {_LESS_MEMORY}")


_LESS_MEMORY = (
    "There is not enough memory: use smaller images (INPUT.MIN_SIZE_*), a smaller batch (SOLVER.IMS_PER_BATCH), or SOLVER.ACCUMULATE."
)


def _message(error: Exception) -> str:
    """The message of an error; of one that a data worker passed on, without the traceback that torch puts before it."""
    if isinstance(error, MemoryError):
        return f"{str(error) or 'An allocation failed'}. {_LESS_MEMORY}"
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if not text.startswith("Caught ") or "Original Traceback" not in text:
        return text
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return text.rpartition(f"\n{name}: ")[2].strip()


def _stop(error: Exception, message: str) -> NoReturn:
    """Ends the process, and all workers: the first that has an error says it, for all usually have the same."""
    logger.debug("Stopped by:", exc_info=True)
    leave_if_others_end(error)
    code = exit_code_of(error)
    if not claim_end(code):
        leave_if_others_end()
    with contextlib.suppress(OSError):  # the disk may be what has failed
        if not isinstance(error, RunFolderError):  # the log may be that of another run
            open_log_file(lambda folder: folder.is_dir() and not CheckpointFolder(folder).used)
    where = f" (worker {get_rank()} of {get_world_size()})" if get_rank() else ""
    said = f"error{where}: {message or type(error).__name__}"
    print(said, file=sys.stderr, flush=True)
    raise Exit(said, code) from None
