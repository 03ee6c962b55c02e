"""The only place where config files are read: safely, and with errors that name file, key and remedy.

:class:`SafeCfgNode` is Detectron2's ``CfgNode`` with another way of merging, so ``cfg.merge_from_file(path)`` and
``cfg.merge_from_list(["KEY", "value"])`` are used as ever. Files are read as plain yaml (:mod:`detkit.config.plain_yaml`), whatever the
caller allows: Detectron2 falls back to ``yaml.unsafe_load``, which runs code, also for files named in ``_BASE_``.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from .catalog import name_classes_in_catalog
from .plain_yaml import MAX_CHARACTERS, PlainYamlError, parse_plain_yaml

__all__ = ["ConfigError", "SafeCfgNode", "flatten", "usable_device"]

BASE_KEY = "_BASE_"


class ConfigError(ValueError):
    """A config file or override that cannot be used. The message names the file, the key and the remedy."""


class _Setting(NamedTuple):
    value: Any
    source: str


class SafeCfgNode(CfgNode):
    """A config whose files and overrides are read safely and checked before anything is changed.

    All wrong keys and values of a file, its ``_BASE_`` files included, or of a list of overrides are reported in one
    :class:`ConfigError`; the config is then left as it was.
    """

    @classmethod
    def load_yaml_with_base(cls, filename: str | os.PathLike[str], allow_unsafe: bool = False) -> dict[str, Any]:
        """The content of a file merged over its ``_BASE_`` files. ``allow_unsafe`` is ignored: unsafe yaml is never read."""
        tree: dict[str, Any] = {}
        for key, setting in _read_with_bases(os.fspath(filename)).items():
            *sections, last = key.split(".")
            node = tree
            for section in sections:
                node = node.setdefault(section, {})
            node[last] = setting.value
        return tree

    def merge_from_file(self, cfg_filename: str | os.PathLike[str], allow_unsafe: bool = False) -> None:
        """Merges a yaml file and its ``_BASE_`` files. ``allow_unsafe`` is ignored.

        ``MODEL.DEVICE: cuda``, which a run on a GPU leaves in its ``config.yaml``, becomes ``cpu`` where there is no GPU.

        Raises:
            ConfigError: file missing or not yaml, ``_BASE_`` missing or cyclic, keys that do not exist, values of a wrong type,
                another VERSION of Detectron2's config format.
        """
        settings = _read_with_bases(os.fspath(cfg_filename))
        version = settings.get("VERSION")
        if version is not None and version.value != self.get("VERSION"):
            raise ConfigError(f"{version.source}: VERSION {version.value} of the config format is not read, only {self.get('VERSION')}")
        self._merge_settings(settings)

    def merge_from_other_cfg(self, cfg_other: CfgNode) -> None:
        """Merges another config, whose keys must all exist here."""
        self._merge_settings({key: _Setting(value, "config") for key, value in flatten(cfg_other)})

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """Merges overrides as ``["SOLVER.BASE_LR", "0.01", ...]``, for instance from a command line."""
        if len(cfg_list) % 2:
            raise ConfigError(
                f"overrides: {len(cfg_list)} words cannot be pairs of KEY VALUE: {' '.join(map(str, cfg_list))}. "
                "Write each override as two words, 'SOLVER.BASE_LR 0.01', and quote values that contain spaces."
            )
        self._merge_settings({key: _Setting(value, "overrides") for key, value in zip(cfg_list[0::2], cfg_list[1::2], strict=True)})

    def _merge_settings(self, settings: Mapping[str, _Setting]) -> None:
        accepted: list[tuple[CfgNode, str, Any]] = []
        problems: list[str] = []
        for number, (key, (value, source)) in enumerate(settings.items()):
            if self.key_is_deprecated(key):
                continue
            if len(problems) == _MAX_PROBLEMS:
                problems.append(f"{len(settings) - number} keys more have not been looked at.")
                break
            try:
                accepted.append(self._checked(key, value))
            except ConfigError as error:
                problems.append(f"{source}: {error}")
        if problems:
            raise ConfigError("\n".join(problems))
        for node, name, value in accepted:
            node[name] = value
        if settings.keys() & {"DATASETS.CLASS_NAMES", "DATASETS.TEST"} and "CLASS_NAMES" in self.get("DATASETS", {}):
            name_classes_in_catalog(self)

    def _checked(self, key: str, value: Any) -> tuple[CfgNode, str, Any]:
        """The node and name that a dotted key leads to, and the value in the type of the one it replaces."""
        if self.key_is_renamed(key):
            self._raise_renamed(key)
        *sections, name = key.split(".")
        node: Any = self
        for section in sections:
            if not isinstance(node, CfgNode) or section not in node:
                raise ConfigError(self._no_such_key(key))
            node = node[section]
        if isinstance(node, CfgNode) and name not in node and node.is_new_allowed():
            return node, name, _decoded(copy.deepcopy(value))
        if not isinstance(node, CfgNode) or name not in node:
            raise ConfigError(self._no_such_key(key))
        return node, name, _coerce(copy.deepcopy(value), node[name], key)

    def _no_such_key(self, key: str) -> str:
        known = [name for name, _ in flatten(self)]
        folded = {name.casefold(): name for name in known}
        near = difflib.get_close_matches(key.casefold(), folded, n=1, cutoff=0.0) if len(key) < 200 else []
        hint = f" The nearest that exists is '{folded[near[0]]}'." if near else ""
        return f"there is no config key '{shown(key)}'.{hint}"

    def _raise_renamed(self, key: str) -> None:
        try:
            self.raise_key_rename_error(key)
        except KeyError as error:
            raise ConfigError(error.args[0]) from None


#: that one message lists
_MAX_PROBLEMS = 20


def _read_with_bases(filename: str, includers: tuple[str, ...] = (), read: list[str] | None = None) -> dict[str, _Setting]:
    """Dotted keys of a file and of the files it builds on, each with the file that sets it. Nearer files win.

    Args:
        includers: files that name this one as their base, the outermost first.
        read: all files that have been read on the way, to which this one is added.
    """
    read = [] if read is None else read
    path = os.path.normpath(os.path.expanduser(filename)) if "://" not in filename else filename
    if path.endswith(".py"):
        raise ConfigError(
            f"{path} is a LazyConfig of Detectron2, a program that would have to be run. Configs here are yaml files: name one, for "
            "instance from configs/, and override its keys on the command line."
        )
    if path in includers:
        raise ConfigError(f"{includers[-1]}: its {BASE_KEY} is circular: {' -> '.join((*includers, path))}")
    read.append(path)
    if len(read) > _MAX_FILES:
        raise ConfigError(f"{read[0]}: its {BASE_KEY} files and theirs are more than {_MAX_FILES}")
    tree = _read_yaml(path, includers)
    bases = tree.pop(BASE_KEY, [])
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: {BASE_KEY} takes a file name or a list of them, not {shown(bases)}")
    settings: dict[str, _Setting] = {}
    for base in bases:
        beside = os.path.join(os.path.dirname(path), os.path.expanduser(base)) if "://" not in base else base
        settings |= _read_with_bases(beside, (*includers, path), read)
    return settings | {key: _Setting(value, path) for key, value in flatten(tree, path)}


#: that one config may be made of; those of the project are made of five at most
_MAX_FILES = 100


def _read_yaml(path: str, includers: tuple[str, ...]) -> dict[str, Any]:
    try:
        if _may_never_end(path):
            raise OSError("it is a pipe")
        with PathManager.open(path, "r") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except (OSError, ValueError) as error:
        named_by = f" (named as {BASE_KEY} in {includers[-1]})" if includers else ""
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        raise ConfigError(f"config file '{path}'{named_by} {reason}") from None
    if text.lstrip("\ufeff \t\r\n").startswith("<"):
        raise ConfigError(f"{path}: this is a web page, not a yaml config. Download the file itself (of GitHub: 'Raw').")
    try:
        tree = parse_plain_yaml(text)
    except PlainYamlError as error:
        line = f", line {error.line}" if error.line else ""
        raise ConfigError(f"{path}{line}: not a plain yaml config: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a config is a yaml mapping of keys to values, this is a {type(tree).__name__}")
    return tree


def _may_never_end(path: str) -> bool:
    """Whether a path leads to a pipe that nobody has given us: opening it may wait for ever."""
    with contextlib.suppress(OSError, ValueError):
        return stat.S_ISFIFO(os.stat(path).st_mode) and not path.startswith(("/dev/", "/proc/"))
    return False


def shown(value: Any, most: int = 120) -> str:
    """A value for a message, in one line and not too long."""
    try:
        text = " ".join((value if isinstance(value, str) else repr(value)).split())
    except RecursionError:
        text = f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}..."


def flatten(tree: Mapping[Any, Any], source: str = "config", prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of the leaves and their values. An empty section has none."""
    for key, value in tree.items():
        if not isinstance(key, str):
            raise ConfigError(f"{source}: {prefix}{shown(repr(key))} is no config key, keys are words")
        if isinstance(value, Mapping):
            yield from flatten(value, source, f"{prefix}{key}.")
        else:
            yield prefix + key, value


_LEAF_TYPES = (bool, int, float, str, list, tuple, type(None))


def usable_device(name: str) -> str:
    """The name of a device of torch that is here, or "cpu" where it asks for CUDA and there is none.

    "meta" is one: models on it have shapes alone. A training or prediction refuses it.

    Raises:
        ConfigError: torch has no such device.
    """
    try:
        kind = torch.device(name).type
        if kind == "cuda":  # not tried: workers that are forked cannot use what this process has begun to use
            if not torch.cuda.is_available():
                return "cpu"
            usable = (torch.device(name).index or 0) < torch.cuda.device_count()
        else:
            usable = torch.empty(1, device=name).numel() == 1
    except (RuntimeError, TypeError, AssertionError, NotImplementedError, ImportError):  # in what words torch says no
        usable = False
    if not usable:
        raise ConfigError(f"MODEL.DEVICE is {name!r}. It has to be a device that is here: 'cuda', 'cuda:0' or 'cpu', for instance.")
    return name


def _coerce(raw: Any, current: Any, key: str) -> Any:
    """A new value in the type of the current one. None stands for any type; int becomes float, list and tuple each other."""
    if isinstance(current, CfgNode):
        raise ConfigError(f"'{key}' is a section, not a value; its keys are {', '.join(sorted(current))}")
    if isinstance(raw, os.PathLike):
        raw = os.fspath(raw)
    value = _decoded(raw)
    if key == "MODEL.DEVICE" and isinstance(value, str):
        return usable_device(value)
    if type(value) not in _LEAF_TYPES:
        raise ConfigError(f"'{key}' cannot take the {type(value).__name__} {shown(value)}")
    if (current is None or isinstance(current, float)) and isinstance(raw, str) and raw.strip().lower() in ("none", "null"):
        return None  # as yaml's null; whether the key may be None is checked with its range
    if current is None or value is None or type(value) is type(current):
        return value
    if isinstance(current, str) and isinstance(raw, str):
        return raw  # a word that looks like a number
    if isinstance(current, float) and type(value) is int:
        return float(value)
    if isinstance(current, (list, tuple)) and isinstance(value, (list, tuple)):
        return type(current)(value)
    if isinstance(current, float) and isinstance(raw, str) and _means_no_number(raw):
        raise ConfigError(f"{key} is {raw}, which nothing can be computed with. It has to be a finite number such as {current!r}.")
    raise ConfigError(
        f"'{key}' takes a value like {current!r} ({type(current).__name__}), not {shown(repr(value))} ({type(value).__name__})"
    )


def _means_no_number(text: str) -> bool:
    """Whether a text is a NaN or an infinity of Python or yaml."""
    try:
        return not math.isfinite(float(text.strip().lower().replace(".nan", "nan").replace(".inf", "inf")))
    except ValueError:
        return False


def _decoded(raw: Any) -> Any:
    """What a text stands for, in Python's notation; the text where it is none, or one that is nested too deeply to be read."""
    try:
        return CfgNode._decode_cfg_value(raw)
    except (RecursionError, MemoryError):
        return raw
