from __future__ import annotations

import io
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from detkit.engine.console import open_log_file, quiet_dependencies, setup_logging

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    names = ("detkit", "detectron2", "fvcore", "py.warnings")
    before = {name: (list(logging.getLogger(name).handlers), logging.getLogger(name).propagate) for name in names}
    yield
    logging.captureWarnings(False)
    for name, (handlers, propagate) in before.items():
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = handlers, propagate


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shows_lines"), [(io.StringIO(), True), (_Terminal(), False)], ids=["pipe", "terminal"])
def test_who_is_heard_where(tmp_path: Path, stream: io.StringIO, shows_lines: bool) -> None:
    setup_logging(tmp_path, stream=stream)
    logging.getLogger("detkit.x").info("ours")
    assert not (tmp_path / "log.txt").exists()  # held back
    open_log_file()
    logging.getLogger("detkit.x").debug("our details")
    logging.getLogger("detectron2.x").info("theirs")
    logging.getLogger("detectron2.x").warning("their worry")
    logging.getLogger("detectron2.utils.events").info("losses")
    warnings.warn("our own warning", UserWarning, stacklevel=1)
    shown, logged = stream.getvalue(), (tmp_path / "log.txt").read_text()
    for text in ("ours", "our details", "theirs", "their worry", "losses", "our own warning"):
        assert text in logged
    assert "ours" in shown and "their worry" in shown and "our own warning" in shown
    assert "our details" not in shown and "theirs" not in shown
    assert ("losses" in shown) is shows_lines


def test_the_next_run_logs_to_its_own_file_once(tmp_path: Path) -> None:
    for name in ("first", "second"):
        setup_logging(tmp_path / name, stream=io.StringIO())
        open_log_file()
        logging.getLogger("detkit").info("in %s", name)
    assert (tmp_path / "first" / "log.txt").read_text().count("in ") == 1
    assert (tmp_path / "second" / "log.txt").read_text().count("in second") == 1


def test_other_workers_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    setup_logging(tmp_path, rank=3)
    open_log_file(lambda folder: folder != tmp_path)
    assert not list(tmp_path.iterdir())
    open_log_file(lambda folder: folder == tmp_path)
    logging.getLogger("detkit").warning("here")
    assert capsys.readouterr().out == ""
    assert "here" in (tmp_path / "log.txt.rank3").read_text()


def test_known_noise_is_silenced_and_nothing_else() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        quiet_dependencies()
        warnings.warn_explicit("`torch.jit.script` is deprecated.", FutureWarning, "x.py", 1, module="torch.jit._script")
        warnings.warn_explicit("`torch.jit.script` is deprecated.", FutureWarning, "x.py", 1, module="ours")
        warnings.warn_explicit("something new", FutureWarning, "x.py", 1, module="torch.jit._script")
    assert [(str(w.message), w.filename) for w in seen] == [("`torch.jit.script` is deprecated.", "x.py"), ("something new", "x.py")]


def test_known_noise_of_loggers_is_silenced_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    quiet_dependencies()
    logger = logging.getLogger("torch.fx._symbolic_trace")
    with caplog.at_level(logging.WARNING):
        logger.addHandler(caplog.handler)
        logger.warning("is_fx_tracing will return true for both")
        logger.warning("something new")
        logger.removeHandler(caplog.handler)
    assert "something new" in caplog.messages and not any(message.startswith("is_fx") for message in caplog.messages)


def test_importing_the_engine_is_quiet() -> None:
    done = subprocess.run([sys.executable, "-c", "import detkit.engine"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
