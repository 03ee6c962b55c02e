"""Reads, predicts and writes at the same time: one thread each, with short queues between."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from detkit.predictor import NamedInstances

from .sinks import Sink, Window
from .sources import Frame

__all__ = ["detect_all"]

Item = TypeVar("Item")
_END = object()


def detect_all(
    source: Iterable[Frame],
    predict: Callable[[Sequence[Any]], Sequence[NamedInstances]],
    sinks: Sequence[Sink],
    *,
    min_score: float,
    batch_size: int = 1,
    progress: Callable[[int], object] = lambda count: None,
) -> int:
    """Runs a predictor over all frames of a source and hands what it finds to the sinks, which are closed whatever happens.

    Args:
        predict: from a list of BGR arrays to the detections on each.
        min_score: detections below it are left out, in [0, 1].
        batch_size: frames that the predictor gets at once.
        progress: called with the number of frames that have just been predicted.

    Returns:
        how many frames were predicted.
    """
    done = 0
    # a window lives in the main thread
    writer = _InThisThread(sinks) if any(isinstance(sink, Window) for sink in sinks) else _InBackground(sinks)
    frames = _ahead(source, size=2 * batch_size)
    try:
        for group in _groups(frames, batch_size):
            for frame, instances in zip(group, predict([frame.pixels for frame in group]), strict=True):
                writer.put(frame, instances[instances.scores >= min_score])
            done += len(group)
            progress(len(group))
    except KeyboardInterrupt:
        pass  # asked to stop: what was found is kept
    finally:
        frames.close()
        writer.close()
    return done


def _groups(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    group: list[Frame] = []
    for frame in frames:
        group.append(frame)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


class _Ahead(Iterator[Item]):
    """The items of an iterable, which a thread of its own fetches ahead of their use; an error of it is raised where it is used."""

    def __init__(self, items: Iterable[Item], size: int) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(max(size, 1))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fetch, args=(items,), daemon=True)
        self._thread.start()

    def _fetch(self, items: Iterable[Item]) -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                self._put((item, None))
                if self._stopped.is_set():
                    return
            self._put((_END, None))
        except BaseException as error:
            self._put((_END, error))
        finally:
            if hasattr(iterator, "close"):
                iterator.close()

    def _put(self, item: Any) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                return self._queue.put(item, timeout=0.1)

    def __next__(self) -> Item:
        item, error = self._queue.get()
        if item is not _END:
            return item
        self._queue.put((_END, error))  # for whoever asks again
        if error is not None:
            raise error
        raise StopIteration

    def close(self) -> None:
        """Ends the thread."""
        self._stopped.set()
        self._thread.join(timeout=10)


def _ahead(items: Iterable[Item], *, size: int) -> _Ahead[Item]:
    return _Ahead(items, size)


class _InThisThread:
    """Writes at once."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks

    def put(self, frame: Frame, instances: NamedInstances) -> None:
        drawing = instances.draw_on(frame.pixels, min_score=0.0) if any(sink.draws for sink in self._sinks) else None
        for sink in self._sinks:
            sink.write(frame, instances, drawing)

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            for sink in self._sinks:
                stack.callback(sink.close)


class _InBackground(_InThisThread):
    """Draws and writes in a thread of its own, in the order of the frames; an error there is raised at the next frame, or at the end."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        super().__init__(sinks)
        self._queue: queue.Queue[Any] = queue.Queue(8)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (item := self._queue.get()) is not _END:
            if self._error is None:
                try:
                    super().put(*item)
                except BaseException as error:
                    self._error = error

    def put(self, frame: Frame, instances: NamedInstances) -> None:
        self._raise()
        self._queue.put((frame, instances))

    def close(self) -> None:
        self._queue.put(_END)
        self._thread.join()
        super().close()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
