"""The config files that come with the project, in a clone and in an installed wheel alike; and where it keeps what it makes."""

from __future__ import annotations

import difflib
import os
from pathlib import Path, PurePath

__all__ = ["cache_folder", "config_names", "get_config_file"]

_PACKAGE = Path(__file__).parent
#: where a wheel holds the config files, and where a clone does
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def get_config_file(name: str | os.PathLike[str]) -> str:
    """The path of a config file of the project, for ``cfg.merge_from_file``.

    Example::

        >>> path = get_config_file("fcos/fcos_R_50_FPN_1x.yaml")

    Args:
        name: its path below ``configs/``, for instance ``"fcos/fcos_R_50_FPN_1x.yaml"``.

    Raises:
        FileNotFoundError: there is no such file; the message names the nearest one that there is.
    """
    wanted = PurePath(name).as_posix()
    names = config_names()
    if wanted not in names:
        near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.0)
        raise FileNotFoundError(f"there is no config file {os.fspath(name)!r}. The nearest that exists is {near[0]!r}.")
    return str(_folder() / wanted)


def cache_folder() -> Path:
    """Where generated pictures and small models of our own lie: ``$DETKIT_CACHE``, by default ``~/.cache/detkit``."""
    return Path(os.environ.get("DETKIT_CACHE") or Path.home() / ".cache" / "detkit").expanduser()


def config_names() -> list[str]:
    """Every name that :func:`get_config_file` knows, in alphabetical order; with ``/`` on every system."""
    folder = _folder()
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml"))


def _folder() -> Path:
    for folder in _FOLDERS:
        if folder.is_dir():
            return folder
    folders = " nor ".join(map(str, _FOLDERS))
    raise FileNotFoundError(f"the config files of detkit are missing: neither {folders} is a folder. Install detkit again.")
