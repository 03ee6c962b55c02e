"""Rows of data that people bring: what is special about them, and what the command line makes of them.

Every row runs ``run()`` on four small images: it trains two iterations and evaluates, or ends with one message.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog
from PIL import Image

from tests.toys.own_data import Outcome, OwnData, two_iterations

from .endings import assert_ends_well, assert_goes_through

Change = Callable[[OwnData], Any]


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: what is special about the data.
        change: makes it so.
        words: further words of the command line.
        refused: the message, as a regular expression; "" where the run goes through.
        says: what else the console shows.
        holds: what is true of the outcome.
    """

    name: str
    change: Change
    words: tuple[str, ...] = ()
    refused: str = ""
    says: str = ""
    holds: Callable[[Outcome], bool] = lambda outcome: True


def first(**fields: Any) -> Change:
    """Fields of the first annotation."""
    return lambda own: own.content["annotations"][0].update(fields)


def every(**fields: Any) -> Change:
    """Fields of all annotations."""
    return lambda own: [each.update(fields) for each in own.content["annotations"]]


def without(section: str, *keys: str) -> Change:
    return lambda own: [each.pop(key) for each in own.content[section] for key in keys]


def image(**fields: Any) -> Change:
    return lambda own: own.content["images"][0].update(fields)


def category(**fields: Any) -> Change:
    return lambda own: own.content["categories"][0].update(fields)


def raw(make: Callable[[bytes], bytes]) -> Change:
    def change(own: OwnData) -> None:
        own.raw = make(json.dumps(own.content, ensure_ascii=False).encode())

    return change


def section(name: str, value: Any) -> Change:
    return lambda own: own.content.update({name: value})


def saved(name: str, picture: Any, **options: Any) -> Change:
    """The first image in another format or depth."""

    def change(own: OwnData) -> None:
        Image.fromarray(picture).save(own.root / name, **options)
        own.content["images"][0]["file_name"] = name

    return change


def broken(name: str, damage: Callable[[bytes], bytes]) -> Change:
    """The first image in the format of a name, damaged."""

    def change(own: OwnData) -> None:
        path = own.root / name
        Image.open(own.image(1)).save(path)
        path.write_bytes(damage(path.read_bytes()))
        own.content["images"][0]["file_name"] = name

    return change


def all_of(*changes: Change) -> Change:
    return lambda own: [change(own) for change in changes]


def lsnet(task: str) -> Change:
    def change(own: OwnData) -> None:
        cfg = two_iterations("LSNet")
        cfg.INPUT.MAPPER, cfg.MODEL.LSNET.TASKS = "LandmarkMapper", task.split("+")
        cfg.MODEL.LSNET.HEAD.DEFORMABLE_TOWERS = False
        if "pose" in task:
            cfg.MODEL.LSNET.NUM_KEYPOINTS = 2
        own.write_config(cfg)

    return change


def keypoints(own: OwnData) -> None:
    for each in own.content["categories"]:
        each["keypoints"] = ["left", "right"]
    for each in own.content["annotations"]:
        each |= {"keypoints": [6, 8, 2, 20, 14, 1], "num_keypoints": 2}


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def num_trained(count: int) -> Callable[[Outcome], bool]:
    """As many objects in the training set."""
    return lambda outcome: sum(len(record["annotations"]) for record in DatasetCatalog.get("custom_train")) == count


def val_json(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Another annotation file for validation."""

    def write(own: OwnData) -> None:
        content = json.loads(json.dumps(own.content))
        change(content)
        (own.root / "val.json").write_text(json.dumps(content))

    return write


def by_name(**kinds: list[Row]) -> dict[str, Row]:
    """The rows of several kinds, each under its kind and its name."""
    named = {f"{kind}: {row.name}": row for kind, rows in kinds.items() for row in rows}
    assert len(named) == sum(map(len, kinds.values())), "two rows have one name"
    return named


def check_row(own: OwnData, row: Row) -> None:
    """Runs a row; its outcome is what the row says."""
    row.change(own)
    words = [str(own.root / word) if word.endswith((".json", ".odgt")) and (own.root / word).exists() else word for word in row.words]
    outcome = own.run(*words)
    if row.refused:
        assert_ends_well(outcome, row.refused, most_lines=40)
    else:
        assert_goes_through(outcome, row.says)
        assert row.holds(outcome)
