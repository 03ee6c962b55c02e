"""The training images in an order that depends on the seed alone.

The run's seed fixes an endless sequence of batches. Every iteration takes one, whatever the number of processes and data workers, so
that two processes train on the same batches as one, and a resumed run goes on where the last checkpoint was.
"""

from __future__ import annotations

import itertools
import logging
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import cv2
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from torch.utils.data import DataLoader, Dataset

from detkit.config import ConfigError, Section
from detkit.data import DataError, release_annotations
from detkit.distributed import get_rank, get_world_size
from detkit.engine.allocator import keep_freed_memory
from detkit.engine.data_workers import watched_batches
from detkit.engine.exits import STOP_SIGNALS
from detkit.engine.seeding import seeded_on_host
from detkit.engine.shared_records import shared_on_machine

__all__ = ["BatchSchedule", "SeededDataset", "TrainLoader", "build_train_loader", "init_worker", "pins_memory"]

logger = logging.getLogger(__name__)

#: A mapper returns None for an image that is to be skipped; after as many skipped ones in a row, something else is wrong.
_MAX_SKIPPED = 20
#: metadata that come from the annotation file
_OF_CONTENT = ("thing_classes", "thing_dataset_id_to_contiguous_id", "keypoint_names", "keypoint_flip_map", "keypoint_connection_rules")


class BatchSchedule:
    """Which images every iteration sees, and which of them this process computes.

    Args:
        stream: makes the endless sequence of dataset indices, the same in every process.
        batch_size: images per iteration over all processes, a multiple of ``parts * world_size``.
        parts: each process computes its share of a batch in this many parts.
        rank: of this process.
        world_size: number of processes.
        groups: group of every dataset index; the images of a batch are then of one group. None: no groups.

    Raises:
        ValueError: the batch cannot be divided.
    """

    def __init__(
        self,
        *,
        stream: Callable[[], Iterator[int]],
        batch_size: int,
        parts: int = 1,
        rank: int = 0,
        world_size: int = 1,
        groups: Sequence[int] | None = None,
    ) -> None:
        if parts < 1 or batch_size < 1 or batch_size % (parts * world_size):
            raise ValueError(
                f"batch_size {batch_size} cannot be divided among {world_size} processes in {parts} parts: make it a multiple of "
                f"{max(parts, 1) * world_size}."
            )
        self.parts = parts
        self._stream, self._batch_size, self._groups = stream, batch_size, groups
        self._first, self._shares = rank, world_size

    def from_iteration(self, start: int) -> Iterator[list[tuple[int, int]]]:
        """The parts that this process computes from iteration ``start`` on, as (position in the stream, dataset index)."""
        stride = self._shares * self.parts
        for batch in itertools.islice(self._batches(), start, None):
            for part in range(self.parts):
                yield batch[part * self._shares + self._first :: stride]

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        gathering: dict[int, list[tuple[int, int]]] = {}
        for position, index in enumerate(self._stream()):
            group = 0 if self._groups is None else self._groups[index]
            batch = gathering.setdefault(group, [])
            batch.append((position, index))
            if len(batch) == self._batch_size:
                del gathering[group]
                yield batch


class SeededDataset(Dataset):
    """Images prepared with randomness that depends on the seed and the image's position in the stream alone.

    Args:
        records: Detectron2's dataset dicts.
        mapper: prepares one of them; returns None to skip a broken image, in whose place another one is drawn.
        seed: of the run.
    """

    def __init__(self, records: Sequence[dict], mapper: Callable[[dict], dict | None], seed: int) -> None:
        self._records, self._mapper, self._seed = records, mapper, seed

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        position, index = item
        with seeded_on_host(self._seed, position):
            for _ in range(_MAX_SKIPPED):
                mapped = self._mapper(self._records[index])
                if mapped is not None:
                    return mapped
                index = random.randrange(len(self._records))
        raise DataError(f"{_MAX_SKIPPED} images drawn one after the other could not be used; the warnings above name them.")


class TrainLoader:
    """Endless training data: each element is the list of mapped images of one part of one iteration.

    Args:
        dataset: takes the items of the schedule.
        schedule: what is seen when.
        num_workers: processes that prepare images; 0 prepares them in this one.
        pin_memory: for faster copies to a GPU.
        patience: seconds after which a worker that is stopped is lost, see :func:`detkit.engine.data_workers.watched_batches`.
    """

    def __init__(
        self, dataset: Dataset, schedule: BatchSchedule, *, num_workers: int = 0, pin_memory: bool = False, patience: float = 90.0
    ) -> None:
        self._dataset, self._schedule = dataset, schedule
        self._num_workers, self._pin_memory, self._patience = num_workers, pin_memory, patience

    def from_iteration(self, start: int) -> Iterator[list[dict[str, Any]]]:
        """Starts the workers and goes on from iteration ``start``."""
        loader = DataLoader(
            self._dataset,
            batch_sampler=_FromIteration(self._schedule, start),
            collate_fn=_as_list,
            num_workers=self._num_workers,
            worker_init_fn=init_worker,
            pin_memory=self._pin_memory,
        )
        return watched_batches(loader, self._patience)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        return self.from_iteration(0)


class _FromIteration(Iterable[list[tuple[int, int]]]):
    def __init__(self, schedule: BatchSchedule, start: int) -> None:
        self._schedule, self._start = schedule, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._schedule.from_iteration(self._start)


def _as_list(batch: list[dict]) -> list[dict]:
    return batch


def init_worker(worker_id: int) -> None:
    """In every data worker: one thread, and the memory of an image kept for the next.

    Requests to stop are for the training process to answer, whose end ends the workers.
    """
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    cv2.setNumThreads(0)
    keep_freed_memory()


def build_train_loader(cfg: CfgNode, mapper: Callable[[dict], dict | None]) -> TrainLoader:
    """The training data of a config whose seed is set.

    Args:
        cfg: ``DATASETS.TRAIN``, ``DATALOADER.*``, ``SOLVER.IMS_PER_BATCH``, ``SOLVER.ACCUMULATE``, ``SEED``.
        mapper: prepares an image for training.

    Raises:
        ConfigError: there is no dataset to train on, a batch that cannot be divided, or an unknown sampler.
    """
    if not cfg.DATASETS.TRAIN:
        raise ConfigError("DATASETS.TRAIN names no dataset to train on. Name a --config-file, or set DATASETS.TRAIN_JSON to a COCO json.")
    solver = Section(cfg, "SOLVER")
    if solver.IMS_PER_BATCH % (solver.ACCUMULATE * get_world_size()):
        raise solver.refusal("IMS_PER_BATCH", f"a multiple of {get_world_size()} processes times SOLVER.ACCUMULATE {solver.ACCUMULATE}")
    records, facts = shared_on_machine(lambda: _records_and_facts(cfg))
    _take_over(cfg, facts)
    schedule = BatchSchedule(
        stream=_build_sampler(cfg, records)._infinite_indices,
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        parts=cfg.SOLVER.ACCUMULATE,
        rank=get_rank(),
        world_size=get_world_size(),
        groups=facts["landscape"] if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None,
    )
    return TrainLoader(
        SeededDataset(records, mapper, cfg.SEED),
        schedule,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        pin_memory=pins_memory(cfg),
        patience=cfg.PATIENCE,
    )


def pins_memory(cfg: CfgNode) -> bool:
    """Whether batches are put into pinned memory: ``DATALOADER.PIN_MEMORY``, where there is a GPU to copy them to."""
    return cfg.DATALOADER.PIN_MEMORY and torch.device(cfg.MODEL.DEVICE).type == "cuda" and torch.cuda.is_available()


def _records_and_facts(cfg: CfgNode) -> tuple[list[dict], dict[str, Any]]:
    records = _training_records(cfg)
    metadata = {name: MetadataCatalog.get(name).as_dict() for name in cfg.DATASETS.TRAIN}
    known = {name: {key: found[key] for key in _OF_CONTENT if key in found} for name, found in metadata.items()}
    return records, {"landscape": [int(each["width"] > each["height"]) for each in records], "metadata": known}


def _take_over(cfg: CfgNode, facts: dict[str, Any]) -> None:
    """What reading the annotations would have left in this process, and nothing of what it needs memory for."""
    for name in cfg.DATASETS.TRAIN:
        metadata = MetadataCatalog.get(name)
        metadata.set(**{key: value for key, value in facts["metadata"][name].items() if not hasattr(metadata, key)})
        if hasattr(metadata, "json_file"):
            release_annotations(metadata.json_file)


def _training_records(cfg: CfgNode) -> list[dict]:
    min_keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    try:
        return get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, min_keypoints=min_keypoints
        )
    except AssertionError as error:  # how Detectron2 says that no image is left
        raise DataError(
            f"No image is left to train on in {', '.join(cfg.DATASETS.TRAIN)} ({error}). DATALOADER.FILTER_EMPTY_ANNOTATIONS leaves out "
            "images without objects, MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE those with fewer labeled keypoints."
        ) from error


def _build_sampler(cfg: CfgNode, records: Sequence[dict]) -> TrainingSampler | RepeatFactorTrainingSampler:
    """Detectron2's sampler; its endless sequence over all processes is what counts here."""
    node = Section(cfg, "DATALOADER")

    def repeated() -> RepeatFactorTrainingSampler:
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, node.REPEAT_THRESHOLD, sqrt=node.REPEAT_SQRT)
        return RepeatFactorTrainingSampler(factors, seed=cfg.SEED)

    samplers = {"TrainingSampler": lambda: TrainingSampler(len(records), seed=cfg.SEED), "RepeatFactorTrainingSampler": repeated}
    return node.choice("SAMPLER_TRAIN", samplers)()
