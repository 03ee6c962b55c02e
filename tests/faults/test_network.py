"""Weights from the network: whatever a server does, one error and a clean cache, or the right file."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from detectron2.utils.file_io import PathHandler, PathManager

from detkit.checkpoint import CheckpointError, fetch, load_weights, local_file
from detkit.checkpoint.download import cached_file

from .file_server import serving


def torch_file(seed: int) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": {"a": torch.full((4000,), float(seed))}}, buffer)
    return buffer.getvalue()


WEIGHTS = torch_file(1)
OTHER = torch_file(2)
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


def kept(tmp_path: Path) -> list[str]:
    """Files of the cache; locks, which are empty, left out."""
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock")


def test_a_file_is_downloaded_once_and_named_by_its_address(server, tmp_path):
    server.files["/a/m.pth"] = WEIGHTS
    path = fetch(server.url("/a/m.pth"))
    assert path.name == "m.pth"
    assert path.read_bytes() == WEIGHTS
    assert fetch(server.url("/a/m.pth")) == path == Path(local_file(server.url("/a/m.pth")))
    assert len(server.asked) == 1
    assert kept(tmp_path) == [".pin.json", "m.pth"]


def test_files_of_the_same_name_are_kept_apart(server):
    server.files.update({"/a/m.pth": WEIGHTS, "/b/m.pth": OTHER, "/m.pth?v=1": WEIGHTS, "/m.pth?v=2": OTHER})
    with serving() as second:
        second.files["/a/m.pth"] = OTHER
        assert fetch(server.url("/a/m.pth")).read_bytes() == WEIGHTS
        assert fetch(second.url("/a/m.pth")).read_bytes() == OTHER
    assert fetch(server.url("/b/m.pth")).read_bytes() == OTHER
    assert fetch(server.url("/m.pth?v=1")).read_bytes() == WEIGHTS
    assert fetch(server.url("/m.pth?v=2")).read_bytes() == OTHER


def test_queries_of_hugging_face_and_redirects(server):
    server.files["/resolve/main/m.pth"] = server.redirecting("/cdn/0123?sig=abc")
    server.files["/cdn/0123"] = WEIGHTS
    path = fetch(server.url("/resolve/main/m.pth?download=true"))
    assert path.name == "m.pth"
    assert path.read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda server: server.silent, "the server has not answered for 0.5 seconds"),
        (lambda server: server.trickling_headers, "the server has not answered for 0.5 seconds"),
        (lambda server: server.stalling(WEIGHTS, 3000), "the server stalls after 3000 bytes"),
        (lambda server: server.trickling(WEIGHTS), r"the server stalls after \d+ bytes"),
        (lambda server: server.refusing(503, times=9), "the server answers 503"),
        (lambda server: server.ending(WEIGHTS, 5000), r"the connection broke after 5000 of \d+ bytes"),
        (lambda server: server.chunked(WEIGHTS[:5000], cut=True), "the connection broke after"),
        (lambda server: server.cutting(WEIGHTS, each=2000), r"the connection broke after 4000( of \d+)? bytes"),
    ],
    ids=["silent", "trickling headers", "stalling", "trickling", "busy", "ending", "cut chunk", "cut"],
)
def test_servers_that_do_not_get_to_the_end_are_given_up(server, tmp_path, make, message):
    server.files["/m.pth"] = make(server)
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=message) as error:
        fetch(server.url("/m.pth"))
    assert time.monotonic() - started < 4
    assert server.url("/m.pth") in str(error.value) and str(cached_file(server.url("/m.pth"))) in str(error.value)
    assert "\n" not in str(error.value)
    assert set(kept(tmp_path)) <= {".m.pth.part", ".m.pth.part.json"}


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda server: server.page, "a web page comes instead of a file"),
        (lambda server: b'{"error": "no such model"}', "does not begin as a file in .pth does"),
        (lambda server: b"", "an empty file"),
        (lambda server: server.refusing(404, times=9), "the server answers 404"),
        (lambda server: server.refusing(403, times=9), "the server answers 403"),
        (lambda server: server.redirecting("file:///etc/passwd"), "file:///etc/passwd' is not allowed"),
        (lambda server: server.redirecting("/m.pth"), "redirect"),
    ],
    ids=["page", "json", "empty", "absent", "forbidden", "to a local file", "in a circle"],
)
def test_what_is_no_file_is_refused_and_not_kept(server, tmp_path, make, message):
    server.files["/m.pth"] = make(server)
    with pytest.raises(CheckpointError, match=message) as error:
        fetch(server.url("/m.pth"))
    assert server.url("/m.pth") in str(error.value)
    assert kept(tmp_path) == []
    server.files["/m.pth"] = WEIGHTS  # mended
    assert fetch(server.url("/m.pth")).read_bytes() == WEIGHTS


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on_where_it_stopped(server, ranges, monkeypatch):
    monkeypatch.setenv("DETKIT_DOWNLOAD_ATTEMPTS", "9")
    each = len(WEIGHTS) // 3 + 1
    server.files["/m.pth"] = server.cutting(WEIGHTS, each=each if ranges else len(WEIGHTS), ranges=ranges)
    assert fetch(server.url("/m.pth")).read_bytes() == WEIGHTS
    assert [asked for _, asked in server.asked] == ([None, f"bytes={each}-", f"bytes={2 * each}-"] if ranges else [None])


def test_a_part_is_left_for_the_next_process(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DETKIT_DOWNLOAD_ATTEMPTS", "1")
    server.files["/m.pth"] = server.cutting(WEIGHTS, each=9000)
    with pytest.raises(CheckpointError):
        fetch(server.url("/m.pth"))
    assert kept(tmp_path) == [".m.pth.part", ".m.pth.part.json"]
    assert fetch(server.url("/m.pth")).read_bytes() == WEIGHTS
    assert server.asked[-1] == ("/m.pth", "bytes=9000-")


def test_parts_of_two_files_are_not_joined(server, monkeypatch):
    monkeypatch.setenv("DETKIT_DOWNLOAD_ATTEMPTS", "1")
    server.files["/m.pth"] = server.cutting(WEIGHTS, each=9000)
    with pytest.raises(CheckpointError):
        fetch(server.url("/m.pth"))
    server.files["/m.pth"] = server.cutting(OTHER, each=len(OTHER), tag='"2"')
    assert fetch(server.url("/m.pth")).read_bytes() == OTHER


def test_a_file_is_what_its_hash_says(server, tmp_path):
    server.files["/m.pth"] = OTHER
    for digits in (SHA256, SHA256[:8]):
        with pytest.raises(CheckpointError, match="its SHA-256 begins with .* and should with") as error:
            fetch(server.url("/m.pth"), sha256=digits)
        assert server.url("/m.pth") in str(error.value)
        assert kept(tmp_path) == []
    with pytest.raises(CheckpointError, match=r"bytes there and should have 7"):
        fetch(server.url("/m.pth"), size=7)
    server.files["/m.pth"] = WEIGHTS
    assert fetch(server.url("/m.pth"), sha256=SHA256, size=len(WEIGHTS)).read_bytes() == WEIGHTS
    with pytest.raises(CheckpointError, match="should with aaaaaaaa"):
        fetch(server.url("/m.pth"), sha256="a" * 8)


def test_an_unknown_hash_is_pinned_at_the_first_download(server):
    address = server.url("/m.pth")
    server.files["/m.pth"] = WEIGHTS
    path = fetch(address)
    path.write_bytes(OTHER)
    with pytest.raises(CheckpointError, match="Remove the file") as error:
        fetch(address)
    assert str(path) in str(error.value)
    path.unlink()
    server.files["/m.pth"] = OTHER
    with pytest.raises(CheckpointError, match="it is known as another file"):
        fetch(address)
    server.files["/m.pth"] = WEIGHTS
    assert fetch(address).read_bytes() == WEIGHTS


def test_without_a_network_the_file_may_be_put_by_hand(server):
    address = "http://127.0.0.1:9/models/m.pth"  # nobody listens there
    with pytest.raises(CheckpointError, match="Connection refused") as error:
        fetch(address)
    path = Path(str(error.value).rpartition("put the file at ")[2])
    path.parent.mkdir(parents=True)
    path.write_bytes(WEIGHTS)
    assert fetch(address) == path


@pytest.fixture
def slow_file(server) -> str:
    def slowly(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(WEIGHTS)))
        handler.end_headers()
        for start in range(0, len(WEIGHTS), 4000):
            handler.wfile.write(WEIGHTS[start : start + 4000])
            time.sleep(0.2)

    server.files["/m.pth"] = slowly
    return server.url("/m.pth")


def test_two_who_ask_at_once_download_once(server, slow_file):
    with ThreadPoolExecutor(2) as both:
        paths = list(both.map(fetch, [slow_file] * 2))
    assert paths[0] == paths[1] and paths[0].read_bytes() == WEIGHTS
    assert len(server.asked) == 1


@pytest.mark.slow
def test_two_processes_download_once(server, slow_file):
    environment = {**os.environ, "DETKIT_READ_TIMEOUT": "20", "DETKIT_CONNECT_TIMEOUT": "20"}
    code = f"from detkit.checkpoint import fetch; print(fetch({slow_file!r}))"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    paths = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert {Path(path).read_bytes() for path in paths} == {WEIGHTS}
    assert len(server.asked) == 1


@pytest.mark.parametrize("address", ["s3://bucket/m.pth", "detectron://x/m.pkl", "torchvision://resnet50", "gs://b/m.pth", "file:m.pth"])
def test_addresses_of_other_kinds_are_refused_by_name(address):
    with pytest.raises(CheckpointError, match="are not opened here") as error:
        local_file(address)
    assert address in str(error.value) and "https://" in str(error.value)


def test_a_catalog_without_the_entry():
    with pytest.raises(CheckpointError, match="catalog://ImageNetPretrained/FAIR/R-50"):
        local_file("catalog://ImageNetPretrained/FAIR/R-50")


def test_detectron2s_own_path_manager_downloads_the_same_way(server, monkeypatch):
    server.files["/m.pth"] = WEIGHTS
    assert PathManager.get_local_path(server.url("/m.pth")) == str(fetch(server.url("/m.pth")))
    with PathManager.open(server.url("/m.pth"), "rb") as file:
        assert file.read() == WEIGHTS


def test_handlers_of_others_stay_usable(tmp_path, monkeypatch):
    class Handler(PathHandler):
        def _get_supported_prefixes(self):
            return ["mine://"]

        def _get_local_path(self, path, **kwargs):
            return str(tmp_path / path.removeprefix("mine://"))

    monkeypatch.setattr(PathManager, "_path_handlers", PathManager._path_handlers.copy())
    PathManager.register_handler(Handler())
    (tmp_path / "m.pth").write_bytes(torch_file(3))
    model = torch.nn.Module()
    model.a = torch.nn.Parameter(torch.zeros(4000))
    load_weights(model, "mine://m.pth")
    assert model.a[0] == 3


def test_a_path_as_an_address(tmp_path):
    path = tmp_path / "m 1.pth"
    path.write_bytes(WEIGHTS)
    assert local_file(path.as_uri()) == str(path)


def test_a_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    server.files["/m.pth"] = WEIGHTS
    with pytest.raises(CheckpointError, match="FVCORE_CACHE"):
        fetch(server.url("/m.pth"))


@pytest.mark.parametrize("variable", ["DETKIT_CONNECT_TIMEOUT", "DETKIT_READ_TIMEOUT", "DETKIT_DOWNLOAD_ATTEMPTS"])
def test_time_limits_are_numbers(server, monkeypatch, variable):
    monkeypatch.setenv(variable, "soon")
    with pytest.raises(ValueError, match=f"{variable} is 'soon'"):
        fetch(server.url("/m.pth"))
