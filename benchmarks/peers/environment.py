"""The environment of the peers that are not among our requirements: mmdetection 3.3.0, with mmcv-lite and mmengine.

    python benchmarks/peers/environment.py      # made on first use by the benchmarks, too

A virtual environment in ``output/benchmarks/peers``. It borrows PyTorch, torchvision and what else there is from the interpreter that
makes it, so that some MB are downloaded instead of GB; where that interpreter has no PyTorch, it is installed as well.
``DETKIT_PEERS_PYTHON`` names the interpreter of another environment with mmdetection, which is then used as it is.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

__all__ = ["PeersMissingError", "peers_python"]

FOLDER = Path(__file__).resolve().parents[2] / "output" / "benchmarks" / "peers"
#: without their requirements, of which most are in our own environment
PINNED = ["mmdet==3.3.0", "mmcv-lite==2.1.0", "mmengine==0.10.7"]
NEEDED = ["addict", "rich", "terminaltables", "yapf", "shapely", "six"]
BORROWED = ["torch", "torchvision", "numpy", "scipy", "pycocotools", "matplotlib", "cv2", "tqdm", "termcolor", "yaml", "packaging"]
PROJECT_OF = {"cv2": "opencv-python-headless", "yaml": "pyyaml"}


class PeersMissingError(Exception):
    """The environment cannot be made; the message says why."""


def peers_python() -> str:
    """The interpreter with mmdetection; the first call makes its environment.

    Raises:
        PeersMissingError: nothing could be installed, without a network for instance.
    """
    if chosen := os.environ.get("DETKIT_PEERS_PYTHON"):
        return chosen
    python = FOLDER / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    finished = FOLDER / "finished.txt"
    recipe = "\n".join([sys.executable, sys.version, *PINNED, *NEEDED])
    if not finished.is_file() or finished.read_text() != recipe:
        _make(python)
        finished.write_text(recipe)
    return str(python)


def _make(python: Path) -> None:
    print(f"making the environment of the peers in {FOLDER} ...", file=sys.stderr, flush=True)
    venv.create(FOLDER, clear=True, with_pip=True)
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True, capture_output=True, text=True
    ).stdout.strip()
    own = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    Path(site, "borrowed.pth").write_text("".join(f"{path}\n" for path in own))  # read after the environment's own packages
    missing = [PROJECT_OF.get(name, name) for name in BORROWED if importlib.util.find_spec(name) is None]
    _install(python, ["--no-deps", *PINNED])
    _install(python, [*NEEDED, *missing])


def _install(python: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments], capture_output=True, text=True
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:] or ["pip failed"]
        raise PeersMissingError(f"the environment of the peers was not made: {lines[-1].removeprefix('ERROR: ')}")


if __name__ == "__main__":
    print(peers_python())
