"""Where messages go: the important ones to the console, all of them to ``log.txt``.

This is the one place where warnings of dependencies are silenced, each by its text and its module, so that nothing else is.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import re
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

from tqdm import tqdm

__all__ = ["OUR_LOGGERS", "close_log_file", "open_log_file", "quiet_dependencies", "setup_logging"]

#: Their INFO messages are for the user; those of other packages go to the log file only.
OUR_LOGGERS = ("detkit", "fcos_atss", "sparsercnn", "lsnet", "dw")

_DEPENDENCY_LOGGERS = ("detectron2", "fvcore", "timm")
#: What of Detectron2 the console shows where there is no progress bar, by logger and start of the message: the periodic line with
#: losses and ETA, and that of a long evaluation.
_PROGRESS = {"detectron2.utils.events": "", "detectron2.evaluation.evaluator": "Inference done"}
#: Its traceback of an error that stops a training is for the log: the error itself is raised on.
_TRAIN_LOOP = "detectron2.engine.train_loop"

#: (category, start of the message as a regular expression, module that is blamed for it as a regular expression)
_KNOWN_NOISE: tuple[tuple[type[Warning], str, str], ...] = (
    # Detectron2 scripts a few functions when it is imported; new torch prefers torch.compile.
    (FutureWarning, r"`torch\.jit\.script", r"torch\.jit\."),
    (DeprecationWarning, r"`torch\.jit\.", r"torch\.jit\."),
    # torch.meshgrid without `indexing` in Detectron2's anchor generator.
    (UserWarning, r"torch\.meshgrid: in an upcoming release", r"torch\.functional"),
    # Detectron2 and fvcore read a file's own tensors through torch.load without naming weights_only.
    (FutureWarning, r"You are using `torch\.load` with `weights_only=False`", r"(detectron2|fvcore)\."),
    (FutureWarning, r"`torch\.cuda\.amp\.", r"(detectron2|fvcore)\."),
    (DeprecationWarning, r"pkg_resources is deprecated", r".*"),
    (UserWarning, r"pkg_resources is deprecated", r".*"),
    (FutureWarning, r"Importing from timm\.models", r"timm\."),
    # The loss scaler skips the first steps of fp16 training while it looks for its scale.
    (UserWarning, r"Detected call of `lr_scheduler\.step\(\)` before `optimizer\.step\(\)`", r"torch\.optim\.lr_scheduler"),
)
#: (logger, start of the message) of warnings that do not pass through ``warnings``
_KNOWN_LOG_NOISE: tuple[tuple[str, str], ...] = (
    # Detectron2's ROI pooler asks whether it is traced; new torch has finer questions.
    ("torch.fx._symbolic_trace", "is_fx_tracing will return true"),
)


def quiet_dependencies() -> None:
    """Silences the known warnings of dependencies in this process. Call it before Detectron2 is imported; twice does no harm."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported: its C++ side has warnings of its own
    # Python's process that cleans up after others which were killed; it reads this when it starts
    cleaning = "ignore:resource_tracker:UserWarning"
    if cleaning not in (given := os.environ.get("PYTHONWARNINGS", "")):
        os.environ["PYTHONWARNINGS"] = f"{given},{cleaning}" if given else cleaning
    for category, message, module in _KNOWN_NOISE:
        warnings.filterwarnings("ignore", message=message, category=category, module=module)
    for name, start in _KNOWN_LOG_NOISE:
        logging.getLogger(name).addFilter(partial(_starts_otherwise, start))


def _starts_otherwise(start: str, record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(start)


def setup_logging(output_dir: str | Path, rank: int = 0, *, stream: IO[str] | None = None) -> None:
    """Sends our messages and everybody's warnings to the console, and all messages to ``output_dir/log.txt`` once that is opened.

    Safe to call again, for the next run in the same process. Workers other than the first write to ``log.txt.rank<n>`` only.

    Args:
        output_dir: of ``log.txt``, which :func:`open_log_file` opens; until then its messages are held back.
        rank: of this worker.
        stream: the console; None is ``sys.stdout``. Where it is a terminal, progress is shown as a bar and not as lines.
    """
    formatter = logging.Formatter("[%(asctime)s] %(message)s", datefmt="%m/%d %H:%M:%S")
    to_file = _LogFile(Path(output_dir) / ("log.txt" if rank == 0 else f"log.txt.rank{rank}"))
    to_file.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S"))
    handlers: list[logging.Handler] = [to_file]
    if rank == 0:
        to_console = _ConsoleHandler(stream)
        to_console.setFormatter(formatter)
        to_console.addFilter(_ConsoleFilter(show_progress=not (stream or sys.stdout).isatty()))
        handlers.append(to_console)
    for name in (*OUR_LOGGERS, *_DEPENDENCY_LOGGERS, "py.warnings"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        for old in list(logger.handlers):
            logger.removeHandler(old)
            old.close()
        for handler in handlers:
            logger.addHandler(handler)
    logging.captureWarnings(True)  # Python's warnings neither tear the progress bar nor miss in the log


def open_log_file(allowed: Callable[[Path], bool] = lambda folder: True) -> None:
    """Opens the log file of :func:`setup_logging`, makes its folder if it is missing, and writes what was held back. Twice does no harm.

    Args:
        allowed: says of the folder whether the file may be opened in it.
    """
    for handler in logging.getLogger(OUR_LOGGERS[0]).handlers:
        if isinstance(handler, _LogFile) and allowed(handler.path.parent):
            handler.open()


def close_log_file() -> None:
    """Ends the log file of :func:`setup_logging`: what follows in this process is of another run."""
    for name in (*OUR_LOGGERS, *_DEPENDENCY_LOGGERS, "py.warnings"):
        logger = logging.getLogger(name)
        for handler in [handler for handler in logger.handlers if isinstance(handler, _LogFile)]:
            logger.removeHandler(handler)
            handler.close()


class _LogFile(logging.handlers.MemoryHandler):
    """Holds messages back until it is opened, so that a start that fails leaves the folder of a finished run alone."""

    def __init__(self, path: Path) -> None:
        super().__init__(capacity=sys.maxsize, flushLevel=sys.maxsize, flushOnClose=False)
        self.path = path

    def open(self) -> None:
        if self.target is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = _FileThatMayFill(self.path)
        file.setFormatter(self.formatter)
        self.setTarget(file)
        self.flush()
        self.capacity = 0  # from now on every message is written at once

    def close(self) -> None:
        target = self.target
        super().close()
        if target is not None:
            target.close()


class _FileThatMayFill(logging.FileHandler):
    """Says once that it cannot be written; a full disk must not stop a training before it stops a checkpoint, nor fill the console."""

    _said = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._said:
            self._said = True
            print(f"{self.baseFilename} cannot be written any more: {error.strerror}.", file=sys.stderr)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


class _ConsoleFilter(logging.Filter):
    """Warnings of all, our messages, and lines of progress where no bar shows it."""

    def __init__(self, *, show_progress: bool) -> None:
        super().__init__()
        self._show_progress = show_progress

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == _TRAIN_LOOP and record.exc_info:
            return False
        if record.levelno >= logging.WARNING:
            return True
        if record.name in _PROGRESS:
            return self._show_progress and record.getMessage().startswith(_PROGRESS[record.name])
        return record.levelno >= logging.INFO and record.name.split(".")[0] in OUR_LOGGERS


#: what would move the cursor of a terminal, or worse; names of classes and files may hold it
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")


class _ConsoleHandler(logging.Handler):
    """Writes above the progress bar, if there is one. Without a stream of its own it follows ``sys.stdout`` where that is redirected."""

    def __init__(self, stream: IO[str] | None) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), self.format(record))
            tqdm.write(text, file=self._stream or sys.stdout)
        except Exception:  # as every logging handler: a message must not stop a training
            self.handleError(record)
