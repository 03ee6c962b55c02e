"""Where the numbers of a training go: a progress bar on a terminal, log.txt, metrics.json, TensorBoard."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from detectron2.engine import HookBase
from detectron2.utils.events import CommonMetricPrinter, EventStorage, EventWriter, JSONWriter, TensorboardXWriter
from tqdm import tqdm

from detkit.checkpoint import write_text_atomically

__all__ = ["METRICS_FILE", "PERIOD", "MetricFiles", "ProgressBar", "trim_metrics"]

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
#: iterations from one line of metrics to the next
PERIOD = 20


class MetricFiles(HookBase):
    """Every ``period`` iterations and after the last one: a line in ``log.txt``, ``metrics.json`` and TensorBoard's events.

    The line also goes to the console where there is no terminal for a progress bar.
    """

    def __init__(self, output_dir: str | Path, period: int = PERIOD) -> None:
        self._folder, self._period = Path(output_dir), period
        self._writers: list[EventWriter] = []
        self._said = False

    def before_train(self) -> None:
        start = self.trainer.start_iter
        self._folder.mkdir(parents=True, exist_ok=True)
        trim_metrics(self._folder, start)
        self._writers = [
            CommonMetricPrinter(self.trainer.max_iter),
            JSONWriter(str(self._folder / METRICS_FILE)),
            TensorboardXWriter(str(self._folder), purge_step=start),
        ]

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done >= self.trainer.max_iter:
            self._write(self._writers)

    def after_train(self) -> None:
        self._write(self._writers[1:])  # not the console: what ends early has no time left to estimate
        for writer in self._writers:
            with contextlib.suppress(OSError):  # what a full disk did not take
                writer.close()

    def _write(self, writers: Sequence[EventWriter]) -> None:
        """A disk that is full stops a training when it stops a checkpoint, not before."""
        for writer in writers:
            try:
                writer.write()
            except OSError as error:
                if not self._said:
                    logger.warning("Metrics cannot be written to %s: %s. The training goes on.", self._folder, error.strerror or error)
                self._said = True


def trim_metrics(output_dir: str | Path, start_iter: int) -> None:
    """Removes the lines of ``metrics.json`` that this training will write again: those from iteration ``start_iter`` on.

    A training that starts anew begins with an empty file; one that resumes loses what came after its checkpoint.
    """
    path = Path(output_dir) / METRICS_FILE
    if not path.exists():
        return
    kept = [line for line in path.read_text().splitlines() if _iteration(line) < start_iter]
    write_text_atomically(path, "".join(f"{line}\n" for line in kept))


def _iteration(line: str) -> float:
    try:
        return json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError):  # a line that a kill has cut off
        return float("inf")


class ProgressBar(HookBase):
    """Iterations with ETA and speed, losses, learning rate, and the AP of the last evaluation, on one line of a terminal."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stdout

    def before_train(self) -> None:
        self._bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            unit="it",
            dynamic_ncols=True,
            file=self._stream,
            smoothing=0.1,
        )

    def after_step(self) -> None:
        self._bar.set_postfix_str(_summary(self.trainer.storage), refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        self._bar.close()


def _summary(storage: EventStorage) -> str:
    """Losses as the median of the last 20 iterations."""
    losses = {k.removeprefix("loss_"): h.median(20) for k, h in storage.histories().items() if "loss" in k}
    words = [f"{'loss' if name == 'total_loss' else name} {value:.3g}" for name, value in losses.items()]
    latest = storage.latest()
    if "lr" in latest:
        words.append(f"lr {latest['lr'][0]:.2g}")
    words += [f"{key.removesuffix('/AP')} AP {value:.1f}" for key, (value, _) in latest.items() if key.endswith("/AP")]
    return ", ".join(words)
