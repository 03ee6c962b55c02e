"""The differences between our configs and the published ones they claim: ``projects/differences.yaml``."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from functools import cache

import yaml

from .architectures import ROOT

__all__ = ["Difference", "declared", "fitting"]

FILE = ROOT / "projects" / "differences.yaml"


@dataclass(frozen=True)
class Difference:
    """One reason why settings of configs differ from their sources'.

    Attributes:
        title: a few words.
        configs: names of configs, ``folder/name``; ``*`` stands for any characters.
        keys: settings by dotted key, likewise.
        reason: why the difference stands.
    """

    title: str
    configs: tuple[str, ...]
    keys: tuple[str, ...]
    reason: str

    @staticmethod
    def pattern(key: str) -> str:
        """The regular expression of a name with ``*``."""
        return fnmatch.translate(key)

    def is_named(self, pattern: str, config: str) -> bool:
        return re.fullmatch(self.pattern(pattern), config) is not None

    def fits(self, config: str, key: str) -> bool:
        return any(self.is_named(name, config) for name in self.configs) and any(self.is_named(name, key) for name in self.keys)


@cache
def declared() -> tuple[Difference, ...]:
    """All declared differences in the order of the file."""
    entries = yaml.safe_load(FILE.read_text())
    return tuple(Difference(entry["title"], tuple(entry["configs"]), tuple(entry["keys"]), entry["reason"]) for entry in entries)


@cache
def fitting(config: str, key: str) -> tuple[Difference, ...]:
    """The declarations for a setting of a config."""
    return tuple(entry for entry in declared() if entry.fits(config, key))
