#!/usr/bin/env python3
"""Writes what the development environment is made of: every package with its version and the hashes of its files.

    .venv/bin/python tools/lock.py     # needs uv (pip install uv) and PyPI

``requirements/dev.txt`` comes from the dependencies and extras in ``pyproject.toml`` and from ``requirements/dev.in``,
``requirements/docs.txt`` from the extra ``docs``. Both hold for Python 3.10 to 3.12 on every system. Versions that stand there already are
kept where they still fit; ``--upgrade`` takes the newest.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it along

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
#: what ``make install`` installs, and ``make docs``
EXTRAS = ("detectron2", "opencv", "export", "hub", "jpeg", "test", "lint")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    upgrade = ["--upgrade"] if parser.parse_args().upgrade else []
    uv = shutil.which("uv")
    if uv is None:
        sys.exit("error: uv is not here. Install it: pip install uv")
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    compile_lock(uv, [ROOT / "pyproject.toml", FOLDER / "dev.in", *extras, *upgrade], FOLDER / "dev.txt")
    docs = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]["docs"]
    compile_lock(uv, ["-", "--constraints", FOLDER / "dev.txt", *upgrade], FOLDER / "docs.txt", "\n".join(docs))


def compile_lock(uv: str, arguments: list[str | Path], output: Path, standard_input: str | None = None) -> None:
    options = ("--universal", "--python-version", "3.10", "--generate-hashes", "--no-annotate", "--quiet")
    options += ("--custom-compile-command", "tools/lock.py")
    done = subprocess.run(
        [uv, "pip", "compile", *options, *map(str, arguments), "--output-file", str(output)],
        cwd=ROOT,
        input=standard_input,
        text=True,
        stdout=subprocess.DEVNULL,  # it shows the whole file
        check=False,
    )
    if done.returncode:
        sys.exit(f"error: {output} could not be written; uv says why above.")
    print(f"{output}: {sum('==' in line for line in output.read_text(encoding='utf-8').splitlines())} packages")


if __name__ == "__main__":
    main()
