"""Config files that would fill the memory or take for ever: one error each, within seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from detkit.config import ConfigError, get_cfg, parse_plain_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 12))
MERGES = "a0: &a0 {" + ", ".join(f"k{i}: 1" for i in range(50)) + "}\n"
MERGES += "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 9))
MANY_KEYS = "".join(f"KEY_{i}: {i}\n" for i in range(3000))

FILES: dict[str, tuple[str, str]] = {
    "aliases of aliases": (LAUGHS, "more than 20000 keys and values"),
    "merges of merges": (MERGES, "more than 20000 keys and values"),
    "one alias, often": ("a: &a [" + "1, " * 900 + "]\nb: [" + "*a, " * 2000 + "]\n", "more than 20000 keys and values"),
    "10 MB of a list": ("SOLVER: {STEPS: [" + "1, " * 3_500_000 + "]}\n", "more than 500000 characters"),
    "10 MB of keys": ("".join(f"KEY_{i}: {i}\n" for i in range(700_000)), "more than 500000 characters"),
    "10 MB in one line": ("OUTPUT_DIR: " + "x" * 10_000_000, "more than 500000 characters"),
    "a list of half a MB": ("SOLVER: {STEPS: [" + "1, " * 160_000 + "]}\n", "more than 20000 keys and values"),
    "many keys": (MANY_KEYS, "there is no config key 'KEY_19'"),
    "deep lists": ("SOLVER: {STEPS: " + "[" * 5000 + "]" * 5000 + "}", "nested more than 32 levels"),
    "deep lists without an end": ("[" * 400_000, "nested more than 32 levels"),
    "deep sections": ("".join(f"{' ' * i}A:\n" for i in range(600)), "nested more than 32 levels"),
    "deep sections in one line": ("{a: " * 5000, "nested more than 32 levels"),
    "deep questions": ("? " * 5000, "nested more than 32 levels"),
    "a deep value": ("SOLVER: {STEPS: '" + "[" * 90_000 + "'}", "'SOLVER.STEPS' takes a value like"),
    "many signs": ("SOLVER: {MAX_ITER: '" + "-" * 200_000 + "1'}", "'SOLVER.MAX_ITER' takes a value like"),
    "a long number": ("SOLVER: {MAX_ITER: " + "9" * 100_000 + "}", "line|value that cannot be read|SOLVER.MAX_ITER"),
    "a date that is none": ("OUTPUT_DIR: 2024-13-45\n", "a value that cannot be read"),
    "a list as a key": ("? [a, b]\n: c\n", "a key is a list or a section"),
    "a section as a key": ("{a: 1}: c\n", "a key is a list or a section"),
    "an alias without an anchor": ("a: *nobody\n", "undefined alias"),
    "no text": ("OUTPUT_DIR: a\0b\n", "not allowed|special characters"),
    "a web page": ("\n<!DOCTYPE html>\n<html><body>404: page</body></html>", "this is a web page, not a yaml config"),
    "a long key": ("? " + "K" * 100_000 + "\n: 1\n", "there is no config key 'KKK"),
    "a long value": ("SOLVER: {MAX_ITER: " + "x" * 100_000 + "}\n", "'SOLVER.MAX_ITER' takes a value like"),
    "two documents": ("A: 1\n---\nB: 2\n", "found another document"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("as_base", [False, True])
def test_files_that_cannot_be_configs(tmp_path: Path, name: str, as_base: bool) -> None:
    text, message = FILES[name]
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    child = tmp_path / "child.yaml"
    child.write_text("_BASE_: bad.yaml\n")
    started = time.process_time()
    with pytest.raises(ConfigError, match=message) as error:
        get_cfg().merge_from_file(child if as_base else path)
    assert time.process_time() - started < 5
    lines = str(error.value).splitlines()
    assert str(path) in lines[0] and len(lines) <= 21 and max(map(len, lines)) < 700


def test_many_unknown_keys_are_not_all_listed(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(MANY_KEYS)
    with pytest.raises(ConfigError, match="2980 keys more have not been looked at"):
        get_cfg().merge_from_file(tmp_path / "bad.yaml")


def test_bases_of_bases_of_bases(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number}.yaml").write_text(f"_BASE_: [{', '.join([f'{number + 1}.yaml'] * 10)}]\n")
    (tmp_path / "12.yaml").write_text("OUTPUT_DIR: x\n")
    with pytest.raises(ConfigError, match=r"0\.yaml: its _BASE_ files and theirs are more than 100"):
        get_cfg().merge_from_file(tmp_path / "0.yaml")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "message"), [(_pipe, "it is a pipe"), (_endless, "more than 500000 characters"), (Path.mkdir, "directory")]
)
def test_files_that_are_none(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "bad.yaml"
    make(path)
    with pytest.raises(ConfigError, match=message):
        get_cfg().merge_from_file(path)


def test_whole_configs_and_aliases_are_read(tmp_path: Path) -> None:
    """The bounds leave room: a resolved config, and what people use aliases for."""
    cfg = get_cfg()
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    again = get_cfg()
    again.merge_from_file(path)
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert parse_plain_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": [{"x": 1, "y": 2}] * 2,
    }
    factors = [[f"backbone.stage_{i}", 0.1, 1.0] for i in range(500)]
    path.write_text(yaml.safe_dump({"SOLVER": {"PARAMETER_FACTORS": factors}}))
    again.merge_from_file(path)
    assert again.SOLVER.PARAMETER_FACTORS == factors
