"""The installer: it keeps a Detectron2 of one's own, refuses a foreign wheel, and says what to do when it cannot go on."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it along
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


@pytest.fixture
def installer(monkeypatch):
    spec = importlib.util.spec_from_file_location("install", ROOT / "tools" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    return module


def bare_environment(folder: Path) -> Path:
    """An environment without pip; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def site_packages(python: Path) -> Path:
    return next(python.parent.parent.glob("lib/python*/site-packages"))


def test_a_detectron2_of_ones_own_is_seen_and_kept(installer, tmp_path, monkeypatch):
    base = bare_environment(tmp_path / "base")
    own = site_packages(base) / "detectron2"
    own.mkdir()
    (own / "__init__.py").write_text("print('a greeting')\n")
    monkeypatch.setattr(installer, "fitting_interpreter", lambda: str(base))
    environment = installer.Environment(tmp_path / "venv")
    environment.create()
    assert environment.imports("detectron2") == str(own)
    assert environment.imports("pip").startswith(str(tmp_path / "venv"))  # its own pip: nothing is installed into the base


def test_an_environment_without_detectron2_sees_no_other_packages(installer, tmp_path, monkeypatch):
    base = bare_environment(tmp_path / "base")
    (site_packages(base) / "something.py").touch()
    monkeypatch.setattr(installer, "fitting_interpreter", lambda: str(base))
    environment = installer.Environment(tmp_path / "venv")
    environment.create()
    assert environment.imports("something") is None and environment.imports("detectron2") is None


def test_an_environment_that_is_there_stays(installer, tmp_path, monkeypatch):
    python = bare_environment(tmp_path / "venv")
    (site_packages(python) / "mine.py").touch()
    monkeypatch.setattr(installer, "fitting_interpreter", lambda: pytest.fail("a second environment is made"))
    environment = installer.Environment(tmp_path / "venv")
    environment.create()
    assert environment.imports("mine")


def test_a_python_that_does_not_fit_is_named_with_the_remedy(installer, monkeypatch):
    monkeypatch.setattr(installer, "VERSIONS", ((2, 7),))
    monkeypatch.setattr(installer.shutil, "which", lambda name: None)
    with pytest.raises(installer.InstallError, match=r"needs Python 2.7; found 3\.\d+ .*make install PYTHON="):
        installer.fitting_interpreter()


def failing_environment(installer, tmp_path: Path, says: str):
    """An environment whose interpreter counts its calls and fails."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\necho call >> {tmp_path}/calls\necho '{says}'\nexit 1\n")
    python.chmod(0o755)
    return installer.Environment(tmp_path / "venv")


@pytest.mark.parametrize("says, attempts", [("Network is unreachable", 3), ("No space left on device", 1)])
def test_pip_that_fails_is_tried_again_and_quoted(installer, tmp_path, says, attempts):
    environment = failing_environment(installer, tmp_path, says)
    with pytest.raises(installer.InstallError, match=rf"(?s)'pip install torch' failed:.*{says}.*install.log.*PyPI must be reachable"):
        environment.pip("install", "torch")
    assert (tmp_path / "calls").read_text().count("call") == attempts
    assert environment.log.read_text().count(says) == attempts


def test_a_wheel_with_another_checksum_is_not_installed(installer):
    class Pip:
        installed = False

        def pip(self, command, *arguments):
            if command == "download":
                (Path(arguments[arguments.index("--dest") + 1]) / "sal_detectron2-0.7.2-cp310-none-any.whl").write_bytes(b"not it")
            else:
                self.installed = True

    pip = Pip()
    with pytest.raises(installer.InstallError, match=r"not the one this project knows \(sha256 [0-9a-f]{64}, expected 491af0c7"):
        installer.install_detectron2(pip)
    assert not pip.installed


def test_the_command_line_ends_with_the_message_alone(tmp_path):
    old = tmp_path / "venv" / "bin" / "python"
    old.parent.mkdir(parents=True)
    old.write_text("#!/bin/sh\necho 3.8\n")
    old.chmod(0o755)
    result = subprocess.run(
        [sys.executable, ROOT / "tools" / "install.py", "--venv", tmp_path / "venv"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "holds a Python 3.8" in result.stderr and "Traceback" not in result.stderr


def required(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(map(Requirement, sum((project["optional-dependencies"][extra] for extra in extras), project["dependencies"])))


LOCK = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8")


def test_every_locked_package_has_hashes(installer):
    lock = installer.locked_packages(LOCK)
    assert len(lock) > 80 and {"torch", "numpy", "setuptools", "ruff"} <= lock.keys()
    for name, text in lock.items():
        for entry in re.findall(r"^\S.*(?:\n +.*)*", text, re.MULTILINE):
            assert re.match(rf"{re.escape(name)}==\S+", entry) and "--hash=sha256:" in entry, entry
    hashes = re.findall("--hash=sha256:[0-9a-f]{64}", LOCK)
    assert sum(text.count("--hash=sha256:") for text in lock.values()) == len(hashes) == LOCK.count("--hash")
    assert re.fullmatch(r"[\w-]+==\S+ --hash=sha256:[0-9a-f]{64}\n", installer.MOBILENET)


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12"])
def test_the_lock_is_that_of_the_project(installer, version):
    """What pyproject.toml asks for is in the lock, once for every version of Python, in a version that fits; else: python tools/lock.py"""
    here = {"python_version": version, "python_full_version": f"{version}.5", "extra": ""}
    locked: dict[str, str] = {}
    for text in installer.locked_packages(LOCK).values():
        for line in text.splitlines():
            if line[:1].isalnum():
                requirement = Requirement(line.rstrip(" \\"))
                if requirement.marker is None or requirement.marker.evaluate(here):
                    assert requirement.name not in locked
                    locked[requirement.name] = str(requirement.specifier).removeprefix("==")
    asked = required("detectron2", "opencv", "export", "hub", "jpeg", "test", "lint")
    assert len(asked) > 30
    for requirement in asked:
        name = re.sub("[-_.]+", "-", requirement.name).lower()
        assert name in locked and requirement.specifier.contains(locked[name]), f"{requirement}: {locked.get(name)} is locked"


class RecordingPip:
    """Stands for an environment, and keeps what it is asked for."""

    def __init__(self, folder: Path, there: dict[str, bool]) -> None:
        self.folder, self.there, self.asked = folder, there, ""
        folder.mkdir()

    def packages(self) -> dict[str, bool]:
        return self.there

    def pip_hashed(self, requirements: str, *options: str) -> None:
        self.asked += requirements


@pytest.mark.parametrize(
    ("there", "kept", "fetched"),
    [
        ({}, set(), {"torch", "triton", "numpy"}),
        ({"torch": True, "numpy": True}, {"torch", "torchvision", "triton", "nvidia-cublas"}, {"numpy"}),  # a PyTorch of one's own
        (
            {"torch": False, "torchvision": False, "numpy": False},
            {"torch", "torchvision", "triton", "numpy"},
            {"scipy"},
        ),  # of the interpreter
    ],
)
def test_what_is_there_is_kept(installer, tmp_path, there, kept, fetched):
    pip = RecordingPip(tmp_path / "venv", there)
    installer.install_locked(pip)
    names = set(installer.locked_packages(pip.asked))
    assert fetched | {"setuptools"} <= names and not kept & names
    installer.install_locked(pip)  # again: now the PyTorch is that of the lock
    assert ("torch" in installer.locked_packages(pip.asked.split("absl-py", 2)[2])) == (there.get("torch") is not False)


@pytest.mark.slow
def test_a_file_with_another_hash_is_refused(installer, tmp_path, monkeypatch):
    """By pip itself, on a package that lies here."""
    environment = installer.Environment(tmp_path / "venv")
    subprocess.run([sys.executable, "-m", "venv", environment.folder], check=True)
    wheel = tmp_path / "small-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("small.py", "")
        archive.writestr("small-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
        archive.writestr("small-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("small-1.0.dist-info/RECORD", "small-1.0.dist-info/RECORD,,\n")
    options = ("--no-index", "--find-links", str(tmp_path))
    with pytest.raises(installer.InstallError, match="HASHES"):
        environment.pip_hashed(f"small==1.0 --hash=sha256:{'0' * 64}\n", *options)
    with pytest.raises(installer.InstallError, match="hash"):
        environment.pip_hashed("small==1.0\n", *options)
    assert "small" not in environment.packages()
    environment.pip_hashed(f"small==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n", *options)
    assert environment.packages()["small"] is True


def test_the_page_of_licences_names_every_dependency():
    page = (ROOT / "docs" / "licenses.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| (\S+) \| \S+ \| (.+?) \|", page, re.MULTILINE))
    asked = {re.sub("[-_.]+", "-", requirement.name).lower() for requirement in required("detectron2", "opencv", "export", "hub", "jpeg")}
    assert asked and asked <= listed.keys()
    assert all(listed.values())
