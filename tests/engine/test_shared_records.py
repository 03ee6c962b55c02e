"""One copy of the records in a machine, for all workers and their data workers."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog

from detkit.config import get_cfg
from detkit.data import DataError, register_coco_folder
from detkit.distributed import get_rank
from detkit.engine import launch
from detkit.engine.data_loader import build_train_loader
from detkit.engine.shared_records import SharedRecords, shared_on_machine
from tests.toys.datasets import CocoFolder

pytestmark = pytest.mark.skipif(not SharedRecords.possible(), reason="this system has no memory without a name")

RECORDS = [{"id": number, "text": "x" * number} for number in range(7)]


@pytest.mark.parametrize(
    "send",
    [lambda made: made, lambda made: SharedRecords.open(made.address), lambda made: ForkingPickler.loads(ForkingPickler.dumps(made))],
)
def test_records_are_what_was_put_in(send) -> None:
    made = SharedRecords.of(RECORDS, {"fact": 1})
    read = send(made)
    assert list(read) == RECORDS and len(read) == 7 and read.facts == {"fact": 1}
    assert read[-1] == RECORDS[-1] and read[2:4] == RECORDS[2:4]
    with pytest.raises(IndexError, match="7 records; 7 is asked for"):
        read[7]
    read[0]["id"] = 9
    assert read[0]["id"] == 0  # what a mapper does to its record changes none


def test_no_records() -> None:
    assert list(SharedRecords.of([])) == []


def test_memory_is_given_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    made = SharedRecords.of(RECORDS)
    address = made.address
    del made
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(OSError, match="No such file"):
        SharedRecords.open(address)


def _private_mib() -> float:
    """Of this process, without what lies in files or shared memory."""
    fields = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return int(fields["Anonymous"].split()[0]) / 1024


_SIZE = 64  # MiB


def _big_records() -> list[dict]:
    return [{"number": number, "bytes": os.urandom(1 << 20)} for number in range(_SIZE)]


def _read_all(address: str, answers) -> None:
    before = _private_mib()
    records = SharedRecords.open(address)
    answers.put((sum(record["number"] for record in records), _private_mib() - before))


def test_who_reads_takes_no_memory_of_its_own() -> None:
    made, forking = SharedRecords.of(_big_records()), multiprocessing.get_context("fork")
    answers = forking.Queue()
    reader = forking.Process(target=_read_all, args=(made.address, answers))
    reader.start()
    total, grown = answers.get(timeout=60)
    reader.join()
    assert total == sum(range(_SIZE)) and grown < _SIZE / 4


def _build() -> tuple[list[dict], str]:
    if get_rank():
        raise AssertionError("the second worker builds records of its own")
    return _big_records(), "fact"


def _share(folder: str) -> None:
    before = _private_mib()
    records, facts = shared_on_machine(_build)
    total = sum(record["number"] for record in records)
    inode = os.stat(records.address).st_ino  # type: ignore[attr-defined]
    said = {"total": total, "facts": facts, "inode": inode, "grown": _private_mib() - before}
    (Path(folder) / f"{get_rank()}.json").write_text(json.dumps(said))
    # read as long as both live
    while len(list(Path(folder).glob("*.json"))) < 2:
        time.sleep(0.05)


@pytest.mark.slow
def test_two_workers_have_one_copy(tmp_path: Path) -> None:
    launch(_share, 2, dist_url=f"file://{tmp_path / 'meeting'}", device="cpu", args=(str(tmp_path),))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["total"] == second["total"] == sum(range(_SIZE))
    assert first["facts"] == second["facts"] == "fact"
    assert first["inode"] == second["inode"]
    assert second["grown"] < _SIZE / 4


def _fail(folder: str) -> None:
    def build() -> tuple[list[dict], None]:
        (Path(folder) / f"built {get_rank()}").touch()
        raise DataError("no image is left")

    shared_on_machine(build)


@pytest.mark.slow
def test_where_the_first_fails_all_end(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        launch(_fail, 2, dist_url=f"file://{tmp_path / 'meeting'}", device="cpu", patience=20, args=(str(tmp_path),))
    assert [path.name for path in tmp_path.glob("built *")] == ["built 0"]


@pytest.mark.parametrize("may_look", [True, False])
def test_the_second_worker_reads_what_the_first_has_made_or_builds_its_own(monkeypatch: pytest.MonkeyPatch, may_look: bool) -> None:
    made = SharedRecords.of(RECORDS, "of the first")
    answers = iter([["here", "here"], [made.address if may_look else "/proc/0/fd/1", None]])
    monkeypatch.setattr("detkit.engine.shared_records.get_world_size", lambda: 2)
    monkeypatch.setattr("detkit.engine.shared_records.get_rank", lambda: 1)
    monkeypatch.setattr("detkit.engine.shared_records._machine", lambda: "here")
    monkeypatch.setattr("detkit.engine.shared_records.comm.all_gather", lambda _: next(answers))
    built: list[int] = []
    records, facts = shared_on_machine(lambda: built.append(1) or (RECORDS, "of the second"))
    assert list(records) == RECORDS and facts == ("of the first" if may_look else "of the second")
    assert bool(built) is not may_look


def test_the_training_loader_knows_what_the_annotations_say(coco_folder: CocoFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    register_coco_folder("shared_train", coco_folder.json_file, coco_folder.image_root)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS, cfg.SEED = ("shared_train",), 2, 0, 1
    loaded = build_train_loader(cfg, lambda record: record)
    classes = MetadataCatalog.get("shared_train").thing_classes
    # as in a worker that has not read the file
    register_coco_folder("shared_train", coco_folder.json_file, coco_folder.image_root)
    monkeypatch.setattr("detkit.engine.data_loader.shared_on_machine", lambda _: (loaded._dataset._records, loaded._dataset._records.facts))
    build_train_loader(cfg, lambda record: record)
    assert MetadataCatalog.get("shared_train").thing_classes == classes
