"""Whatever stands in an annotation file: it trains and is evaluated, or it is refused by name."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.toys.own_data import OwnData, valid_content

#: what may stand in place of a value
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 10**6, 2**31, 2**63, 2**64 + 1, -(2**70), 10**400, 0.0, 0.5, -0.5, 1e-300, 1e308, 12.0,
    float("nan"), float("inf"), -float("inf"), "", "0", "1", "x", "1.png", "../1.png", "ä ☃ 中文", "\ud800", "\x00", "a\nb", "x" * 5000,
    [], [[]], [0], [1, 2, 3, 4], [[1, 2, 3, 4, 5, 6]], [None] * 4, ["1", "2", "3", "4"], [1e300] * 4, [float("nan")] * 4, [0, 0, 0, 0],
    {}, {"id": 1}, {"counts": "x", "size": [48, 64]}, {"counts": [3072], "size": [48, 64]}, {"counts": None, "size": None},
]  # fmt: skip
EXTRA_KEYS = ("ignore", "segmentation", "keypoints", "num_keypoints", "attributes", "score", "skeleton", "license", "info", "")


def rich_content() -> dict[str, Any]:
    """Valid, with masks of all kinds and keypoints."""
    content = valid_content()
    content["categories"][0] |= {"keypoints": ["left", "right"], "skeleton": [[1, 2]], "supercategory": "thing"}
    masks = [[[4, 6, 20, 6, 12, 20]], {"size": [48, 64], "counts": [100, 20, 48 * 64 - 120]}, [], None]
    for number, annotation in enumerate(content["annotations"]):
        annotation["segmentation"] = masks[number % len(masks)]
        if annotation["category_id"] == 1:
            annotation |= {"keypoints": [5, 7, 2, 10, 9, 1], "num_keypoints": 2}
    return content


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of everything in the content, from the top down."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, child in below for deeper in paths_in(child, (*path, key)))]


def owner_of(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        content = content[key]
    return content


def replace(rng: random.Random, content: Any, path: tuple[Any, ...]) -> None:
    owner_of(content, path)[path[-1]] = copy.deepcopy(rng.choice(VALUES))


def remove(rng: random.Random, content: Any, path: tuple[Any, ...]) -> None:
    del owner_of(content, path)[path[-1]]


def add(rng: random.Random, content: Any, path: tuple[Any, ...]) -> None:
    owner, value = owner_of(content, path), copy.deepcopy(rng.choice(VALUES))
    if isinstance(owner, dict):
        owner[rng.choice(EXTRA_KEYS)] = value
    else:
        owner.insert(rng.randrange(len(owner) + 1), value)


def repeat(rng: random.Random, content: Any, path: tuple[Any, ...]) -> None:
    """An entry twice, or a value of another place."""
    owner = owner_of(content, path)
    if isinstance(owner, list):
        owner.append(copy.deepcopy(owner[path[-1]]))
    else:
        other = rng.choice(paths_in(content)[1:])
        owner[path[-1]] = copy.deepcopy(owner_of(content, other)[other[-1]])


def as_text(rng: random.Random, content: Any, path: tuple[Any, ...]) -> None:
    owner = owner_of(content, path)
    owner[path[-1]] = str(owner[path[-1]])


CHANGES: list[Callable[[random.Random, Any, tuple[Any, ...]], None]] = [replace, replace, replace, remove, add, repeat, as_text]


def mutated(seed: int) -> bytes:
    """A file with one to three changes; one in ten is cut, has other bytes or stands in another encoding."""
    rng = random.Random(seed)
    content = rich_content()
    for _ in range(rng.choice((1, 1, 2, 3))):
        path = rng.choice(paths_in(content)[1:] or [("images",)])
        try:
            rng.choice(CHANGES)(rng, content, path)
        except (KeyError, IndexError, TypeError):  # an earlier change has taken the place away
            content = rich_content()
    text = json.dumps(content, ensure_ascii=rng.random() < 0.7)
    raw = text.encode("utf-8", "surrogatepass")
    kind = rng.random()
    if kind < 0.03:
        return raw[: rng.randrange(len(raw))]
    if kind < 0.06:
        position = rng.randrange(len(raw))
        return raw[:position] + bytes([rng.randrange(256)]) + raw[position + 1 :]
    if kind < 0.10:
        return text.encode(rng.choice(("utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1")), "replace")
    return raw


def check(own_data: OwnData, seeds: range) -> dict[str, int]:
    """Runs the files of some seeds and counts how they ended."""
    ended = {"trained": 0, "refused": 0}
    for seed in seeds:
        own_data.raw = mutated(seed)
        try:
            outcome = own_data.run()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__} has reached the user") from error
        assert "Traceback" not in outcome.console, f"seed {seed}"
        if outcome.message is None:
            ended["trained"] += 1
            assert "bbox" in outcome.results and "iter: 1 " in outcome.console, f"seed {seed}"
        else:
            ended["refused"] += 1
            assert outcome.message.startswith("error: ") and "own.json" in outcome.message, f"seed {seed}: {outcome.message}"
    return ended


@pytest.mark.parametrize("part", range(4))
def test_changed_files_train_or_are_refused_by_name(own_data: OwnData, part: int) -> None:
    ended = check(own_data, range(50 * part, 50 * part + 50))
    assert min(ended.values()) >= 5, ended


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_many_changed_files_train_or_are_refused_by_name(own_data: OwnData, part: int) -> None:
    ended = check(own_data, range(1000 + 150 * part, 1150 + 150 * part))
    assert min(ended.values()) >= 15, ended
