"""The installer: it keeps a Detectron2 of one's own, refuses a foreign wheel, and says what to do when it cannot go on."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

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
