"""What pip installs is whole: packages, their data and the configs, also by way of an sdist, and they work where there is no clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePath

import pytest

import detkit
from detkit.config import METHOD_PACKAGES
from detkit.config_files import config_names
from tests.toys.datasets import CocoFolder

ROOT = Path(__file__).parents[2]
PACKAGES = ("detkit", *METHOD_PACKAGES)


def build(folder: Path, what: str) -> Path:
    """Runs a hook of the build backend in a folder that holds the project; the file that it makes."""
    code = f"from setuptools import build_meta; print(build_meta.{what}('dist'))"
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder / "dist" / result.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from an sdist of a copy of the project."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    for name in (*PACKAGES, "configs"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    sdist = build(clone, "build_sdist")
    shutil.unpack_archive(sdist, clone / "unpacked", filter="data")
    (source,) = (clone / "unpacked").iterdir()
    return build(source, "build_wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the content of the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    shutil.unpack_archive(wheel, folder, format="zip")
    return folder


def run_outside(installed: Path, code: str) -> str:
    """What a process prints that sees the installed packages rather than the clone."""
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], cwd=installed, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_wheel_holds_every_module_and_all_data(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    configs = {f"detkit/configs/{path.relative_to(ROOT / 'configs').as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    folders = (ROOT / "detkit" / "report" / "templates", ROOT / "detkit" / "model_zoo" / "tables")
    data = {path.relative_to(ROOT).as_posix() for folder in folders for path in folder.iterdir()} | {"detkit/model_zoo/verified.json"}
    assert configs and data
    assert held == modules | configs | data | {f"{package}/py.typed" for package in PACKAGES}


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> list[str]:
    """The lines of the wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return archive.read(name).decode().splitlines()


def test_version_and_extras(metadata: list[str]) -> None:
    assert f"Version: {detkit.__version__}" in metadata
    extras = {line.partition(": ")[2] for line in metadata if line.startswith("Provides-Extra")}
    assert extras == {"all", "detectron2", "docs", "export", "hub", "jpeg", "lint", "opencv", "test"}


def test_linters_are_pinned_in_one_place(metadata: list[str]) -> None:
    pins = dict(re.findall(r"^Requires-Dist: (\S+)==(\S+); extra == \"lint\"$", "\n".join(metadata), re.MULTILINE))
    assert set(pins) == {"mypy", "ruff"}
    elsewhere = [ROOT / "setup.py", ROOT / "Makefile", ROOT / "tools" / "install.py", ROOT / ".ci" / "run", ROOT / "CONTRIBUTING.md"]
    assert not [path for path in elsewhere for version in pins.values() if version in path.read_text()]


def test_config_files_are_found_outside_a_clone(installed: Path) -> None:
    code = "import detkit, detkit.config_files as c; print(detkit.get_config_file('fcos/fcos_R_50_FPN_1x.yaml')); print(*c.config_names())"
    path, names = run_outside(installed, code).splitlines()
    assert PurePath(path) == installed / "detkit" / "configs" / "fcos" / "fcos_R_50_FPN_1x.yaml"
    assert Path(path).read_bytes() == (ROOT / "configs" / "fcos" / "fcos_R_50_FPN_1x.yaml").read_bytes()
    assert names.split() == config_names()


def test_entry_points(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        assert archive.read(name).decode().split("\n")[1:3] == ["detkit-demo = detkit.demo:run", "detkit-train-net = detkit.engine:run"]


@pytest.mark.slow
def test_training_predicting_and_the_demo_outside_a_clone(installed: Path, tmp_path: Path) -> None:
    data = CocoFolder(tmp_path / "data")
    words = ["--config-file", "CONFIG", "SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "2", "OUTPUT_DIR", str(tmp_path / "out")]
    words += ["DATASETS.TRAIN_JSON", str(data.json_file), "DATASETS.TRAIN_IMAGES", str(data.image_root), "DATALOADER.NUM_WORKERS", "0"]
    code = (
        "import detkit\nfrom detkit.engine import run\nfrom detkit.demo import run as demo\n"
        f"words = {words!r}; words[1] = detkit.get_config_file('quick/fcos_mobilenetv2.yaml'); run(words)\n"
        f"predictor = detkit.Predictor.from_run({str(tmp_path / 'out')!r}); found = predictor({str(data.image(1))!r})\n"
        f"demo(['--config-file', {str(tmp_path / 'out')!r}, '--input', {str(data.image(1))!r}, '--output', {str(tmp_path / 'p.png')!r}])\n"
        "print(detkit.__file__); print(found.class_names)"
    )
    lines = run_outside(installed, code).splitlines()
    assert Path(lines[-2]) == installed / "detkit" / "__init__.py" and lines[-1] == "['ball', 'cube']" and (tmp_path / "p.png").is_file()


@pytest.mark.slow
def test_every_shipped_config_is_read_outside_a_clone(installed: Path) -> None:
    code = (
        "from detkit.config import get_cfg\n"
        "from detkit.config_files import config_names, get_config_file\n"
        "for name in config_names():\n"
        "    cfg = get_cfg(); cfg.merge_from_file(get_config_file(name)); print(name, cfg.MODEL.META_ARCHITECTURE)"
    )
    assert len(run_outside(installed, code).splitlines()) == len(config_names())


def test_config_files_of_a_clone() -> None:
    assert {ROOT / "configs" / name for name in config_names()} == set((ROOT / "configs").rglob("*.yaml"))
    assert Path(detkit.get_config_file(PurePath("fcos", "fcos_R_50_FPN_1x.yaml"))) == ROOT / "configs" / "fcos" / "fcos_R_50_FPN_1x.yaml"


@pytest.mark.parametrize("name", ["fcos/fcos_R50_FPN_1x.yaml", "../configs/fcos/fcos_R_50_FPN_1x.yaml", "fcos"])
def test_a_config_file_that_is_not_there_is_refused_with_the_nearest(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config file '.*' *\. The nearest that exists is '[\w-]+/[\w-]+\.yaml'"):
        detkit.get_config_file(name)
