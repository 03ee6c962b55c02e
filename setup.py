"""Puts ``configs/`` into the package ``detkit``; everything else about the packages is in ``pyproject.toml``."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = Path(__file__).parent / "configs"


class BuildWithConfigs(build_py):
    """Copies ``configs/`` to ``detkit/configs`` of what is built; an editable install reads it where it lies."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "detkit" / "configs"
            shutil.rmtree(target, ignore_errors=True)  # an earlier build may have left files that are gone since
            shutil.copytree(CONFIGS, target)


setup(cmdclass={"build_py": BuildWithConfigs})
