"""Do the tests notice? Makes one meaningful edit after the other to a copy of the code and runs the tests that should fail.

    python tools/mutate.py                       # all edits of tests/mutations, one after the other
    python tools/mutate.py --only detkit/engine  # those of some files
    python tools/mutate.py --results mutations.json

The edits are data, ``tests/mutations/*.yaml``: a file, the tests that should notice, and pairs of old and new text (see the head of any of
them). The tests see what a fresh clone has: the golden cases and data sets outside the repository are hidden from them. An edit is caught
where a test fails; one that survives is printed, with the reason why it may, where the list has one. The exit status is 1 where less than
``--least`` percent are caught.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Edit", "apply_edit", "main", "read_edits"]

ROOT = Path(__file__).resolve().parents[1]
EDITS = ROOT / "tests" / "mutations"
#: imported once and inherited by the process of every edit, to save their start
_SLOW_IMPORTS = ("torch", "torchvision", "detectron2.config", "detectron2.data", "detectron2.evaluation", "detectron2.modeling", "timm")
_SLOW_IMPORTS += ("hypothesis", "scipy.optimize", "cv2", "pytest")
_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "output", "shared", "__pycache__", ".*_cache", "*.egg-info", ".hypothesis")
#: pytest's exit status where a test failed, and where a file could not be imported
_FAILED, _NOT_IMPORTED = 1, 2


@dataclass(frozen=True)
class Edit:
    """A change that should make a test fail.

    Attributes:
        file: below the root of the repository.
        old: text that occurs once in the file.
        new: what takes its place.
        tests: files, folders or single tests of pytest.
        may_live: why no test can notice; "" where one should.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    may_live: str = ""

    @property
    def name(self) -> str:
        return f"{self.file}: {_one_line(self.old)}  ->  {_one_line(self.new)}"


def read_edits(folder: Path) -> list[Edit]:
    """The edits of all lists in a folder, or of one list.

    Raises:
        ValueError: an entry has not the form that the head of the lists describes; names the file.
    """
    edits = []
    for path in sorted(folder.glob("*.yaml")) if folder.is_dir() else [folder]:
        for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
            try:
                tests = tuple(entry["tests"])
                edits += [Edit(entry["file"], str(old), str(new), tests, *map(str, why)) for old, new, *why in entry["edits"]]
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}: an entry is a mapping of file, tests and edits [old, new], not {entry!r}") from error
    return edits


def apply_edit(text: str, edit: Edit) -> str:
    """The text of the edit's file with the edit.

    Raises:
        ValueError: the old text does not occur, or more than once.
    """
    count = text.count(edit.old)
    if count != 1:
        raise ValueError(f"{edit.file}: the text {edit.old!r} occurs {count} times; an edit has to name one place.")
    return text.replace(edit.old, edit.new)


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    edits = [edit for edit in read_edits(args.edits) if args.only in edit.name]
    if not edits:
        sys.exit(f"error: no edit has {args.only!r} in its file or text.")
    os.environ.update(_THREADS)
    for name in _SLOW_IMPORTS if args.preload else ():
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = Path(folder) / "code"
        shutil.copytree(args.root, copy, ignore=_LEFT_OUT)
        _require_passing(copy, edits, args.timeout)
        results = list(_try_all(copy, edits, args.timeout))
    _report(results)
    if args.results:
        args.results.write_text(json.dumps([{**asdict(edit), "caught": caught} for edit, caught in results], indent=1) + "\n")
    return 0 if 100 * sum(caught for _, caught in results) >= args.least * len(results) else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="edits whose file or text has this")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the result of every edit to a json file")
    parser.add_argument("--least", type=float, default=95.0, metavar="PERCENT", help="that have to be caught (95)")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="after which an edit counts as caught (300)")
    parser.add_argument("--edits", type=Path, default=EDITS, metavar="PATH", help="folder of lists, or one list")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="FOLDER", help="the code to edit")
    parser.add_argument("--no-preload", dest="preload", action="store_false", help="import nothing before the tests do")
    return parser.parse_args(argv)


def _require_passing(copy: Path, edits: Sequence[Edit], timeout: float) -> None:
    """Without an edit all tests pass; else a failure would say nothing."""
    tests = sorted({test for edit in edits for test in edit.tests})
    status, output = _run(copy, tests, max(timeout * len(tests), 60.0))  # the first start reads all modules from the disk
    if status != 0:
        sys.exit(f"{output}\nerror: the tests do not pass as they are.")


def _try_all(copy: Path, edits: Sequence[Edit], timeout: float) -> Iterator[tuple[Edit, bool]]:
    for number, edit in enumerate(edits, start=1):
        path = copy / edit.file
        before, start = path.read_text(encoding="utf-8"), time.monotonic()
        path.write_text(apply_edit(before, edit), encoding="utf-8")
        try:
            status, output = _run(copy, edit.tests, timeout)
        finally:
            path.write_text(before, encoding="utf-8")
        if status not in (0, _FAILED, _NOT_IMPORTED, None):
            sys.exit(f"{output}\nerror: pytest ended with status {status} for {edit.name}.")
        verdict = "survived" if status == 0 else "caught"
        print(f"[{number}/{len(edits)}] {verdict:8} {time.monotonic() - start:5.1f} s  {edit.name}", flush=True)
        yield edit, status != 0


def _run(copy: Path, tests: Sequence[str], timeout: float) -> tuple[int | None, str]:
    """Exit status of pytest in a process of its own, None where it took too long, and what it wrote."""
    output = copy.parent / "output.txt"
    child = os.fork()
    if child == 0:
        os.setsid()  # so that all that the tests start can be ended
        _become_pytest(copy, tests, output)
    deadline = time.monotonic() + timeout
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), output.read_text(errors="replace")
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None, output.read_text(errors="replace")
        time.sleep(0.02)


def _become_pytest(copy: Path, tests: Sequence[str], output: Path) -> None:
    """Never returns."""
    status = 70
    try:
        with open(output, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ.update(_environment(copy))
        os.chdir(copy)
        sys.path[:] = [str(copy), *(path for path in sys.path if Path(path or ".").resolve() not in (ROOT, ROOT / "tools"))]
        sys.dont_write_bytecode = True
        pytest = importlib.import_module("pytest")
        options = ["-q", "-x", "-p", "no:cacheprovider", "--rootdir", str(copy), "-m", "not slow and not gpu"]
        status = int(pytest.main([*options, *tests]))
        sys.stdout.flush()
    finally:
        os._exit(status)


def _environment(copy: Path) -> Mapping[str, str]:
    """That of a fresh clone, with one thread."""
    nowhere = str(copy.parent / "nowhere")
    paths = [str(copy), *(path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and Path(path).resolve() != ROOT)]
    hidden = {"DETKIT_GOLDENS": nowhere, "DETKIT_DATA": nowhere}
    return {**hidden, **_THREADS, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


def _report(results: Sequence[tuple[Edit, bool]]) -> None:
    total, caught_of = Counter[str](), Counter[str]()
    for edit, caught in results:
        room = _room(edit.file)
        total[room] += 1
        caught_of[room] += caught
    print("\nroom                   caught")
    for room, count in sorted(total.items()):
        print(f"{room:22} {caught_of[room]:3} of {count}")
    survivors = [edit for edit, caught in results if not caught]
    if survivors:
        print("\nsurvivors:")
    for edit in survivors:
        print(f"  {edit.name}" + (f"\n      may live: {edit.may_live}" if edit.may_live else ""))
    caught = len(results) - len(survivors)
    print(f"\n{caught} of {len(results)} edits caught ({100 * caught / len(results):.1f} %).")


def _room(file: str) -> str:
    parts = Path(file).parts
    return "/".join(parts[:2]) if parts[0] == "detkit" and len(parts) > 2 else parts[0]


def _one_line(text: Any) -> str:
    return " ".join(str(text).split())


if __name__ == "__main__":
    sys.exit(main())
