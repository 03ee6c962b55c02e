#!/usr/bin/env python3
"""Lists the licences of all packages that the project stands on, as they declare them, in ``docs/licenses.md``.

.venv/bin/python tools/licenses.py            # writes the page
.venv/bin/python tools/licenses.py --check    # fails where the page lacks a package that is installed
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "licenses.md"
#: what is no package of a registry, or comes with every Python
LEFT_OUT = frozenset({"detkit", "pip"})
#: extras of the project that are for its users
FOR_USERS = ("detectron2", "opencv", "export", "hub", "jpeg")
HEAD = """# Licences

The project itself is under the [Apache License 2.0](../LICENSE). These are the packages of the development environment
(`requirements/dev.txt`) on Linux, with the licence that each declares in its own metadata. Written by `tools/licenses.py`; the lock of
other systems and versions of Python has a few more. The licences of published weights stand in the [model zoo](../MODEL_ZOO.md), not here:
some forbid commercial use.

| package | version | licence | needed |
|---|---|---|---|
"""
#: texts of licences that are given in full, by words that only they have
KNOWN_TEXTS = {
    "Apache License": "Apache-2.0",
    "Redistributions in binary form": "BSD-3-Clause or BSD-2-Clause",
    "Permission is hereby granted, free of charge": "MIT",
    "Mozilla Public License": "MPL-2.0",
    "NVIDIA": "NVIDIA, proprietary",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the page instead of writing it")
    check = parser.parse_args().check
    packages = {normal(d.metadata["Name"]): d for d in importlib.metadata.distributions() if normal(d.metadata["Name"]) not in LEFT_OUT}
    if check:
        known = set(re.findall(r"^\| (\S+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
        missing = sorted(packages.keys() - known)
        if missing:
            sys.exit(f"error: {PAGE} lacks {', '.join(missing)}. Write it anew: python tools/licenses.py")
        return
    needed = closure("detkit", FOR_USERS)
    rows = [
        f"| {name} | {package.version} | {licence(package)} | {'to use it' if name in needed else 'to develop it'} |"
        for name, package in sorted(packages.items())
    ]
    PAGE.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    print(f"{PAGE}: {len(rows)} packages")


def normal(name: str) -> str:
    """The name of a package as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(package: importlib.metadata.Distribution) -> str:
    """What a package declares: the expression, else the classifiers, else the field of free text."""
    data = package.metadata
    expression = data.get("License-Expression")
    if expression:
        return expression
    names = [value.rpartition(" :: ")[2] for value in data.get_all("Classifier") or () if value.startswith("License ::")]
    names = [name for name in names if name != "OSI Approved"]
    if names:
        return " or ".join(dict.fromkeys(names)).replace("|", "/")
    text = (data.get("License") or "").strip()
    text = "" if text == "UNKNOWN" else text
    if 0 < len(text) <= 60:
        return text.replace("|", "/")
    text += "".join(file.read_text(errors="replace") for file in texts(package))
    return next((name for words, name in KNOWN_TEXTS.items() if words in text), "not declared")


def texts(package: importlib.metadata.Distribution) -> Iterator[Path]:
    """The files of a package in which licences usually stand."""
    for file in package.files or ():
        if re.match(r"(?i)(licen[sc]e|copying)", file.name) and ".dist-info" in str(file):
            path = Path(str(file.locate()))
            if path.is_file():
                yield path


def closure(start: str, extras: Collection[str]) -> set[str]:
    """Names of all installed packages that a package with some of its extras requires, and what these require."""
    todo, seen = [(start, frozenset(extras))], set()
    while todo:
        name, wanted = asked = todo.pop()
        if asked in seen:
            continue
        seen.add(asked)
        try:
            requirements = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:  # of another system
            continue
        for requirement in requirements:
            found = re.match(r"([A-Za-z0-9._-]+)\s*(?:\[([^]]*)\])?", requirement)
            extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
            if found and (extra is None or extra[1] in wanted):
                todo.append((normal(found[1]), frozenset(map(str.strip, (found[2] or "").split(",")))))
    return {name for name, _ in seen}


if __name__ == "__main__":
    main()
