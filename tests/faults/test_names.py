"""Names in configs and annotations write nowhere but in the output folder, and nothing but text on the console."""

from __future__ import annotations

from pathlib import Path

import pytest

from detkit.checkpoint import CheckpointError, fetch
from detkit.checkpoint.download import cached_file
from tests.faults.endings import assert_ends_well, assert_goes_through
from tests.toys.own_data import OwnData


def files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", "..", ".hidden", "", "x" * 300, "a\nb", "a\0b", "~x", "a\\b"])
def test_names_of_data(own_data: OwnData, name: str) -> None:
    before = files(own_data.root) | {own_data.json_file}
    assert_ends_well(own_data.run("DATASETS.NAME", name), "DATASETS.NAME is ", "It has to be a name without slashes")
    assert {path.name for path in files(own_data.root) - before} <= {"log.txt"}


HOSTILE = [
    "../../../escaped",
    "/tmp/escaped",
    "a/../../b",
    "<script>alert(1)</script>",
    "\x1b[2J\x1b]0;title\x07",
    "a\rerror: b",
    "$(touch x)",
    "%s%n{0}",
]


def test_names_of_classes_and_of_what_is_evaluated(own_data: OwnData) -> None:
    """Trained, evaluated, with repaired copies written."""
    own_data.content["categories"] = [{"id": number + 1, "name": name} for number, name in enumerate(HOSTILE)]
    own_data.content["annotations"][0]["bbox"] = [4, 6, 900, 18]  # so that a corrected copy of the annotations is written
    for image in own_data.content["images"]:
        image["license"] = image["flickr_url"] = "../../../escaped"
    before, outside = files(own_data.root) | {own_data.json_file}, set(own_data.root.parent.glob("*"))
    outcome = own_data.run("DATASETS.ON_BAD_BOX", "fix")
    assert_goes_through(outcome)
    written = files(own_data.root) - before
    assert len(written) > 5 and all(path.is_relative_to(outcome.output) for path in written)
    assert set(own_data.root.parent.glob("*")) == outside
    assert "\x1b" not in outcome.console and "\r" not in outcome.console


@pytest.mark.parametrize("image", ["../1.png", "/1.png", "a/../../1.png"])
def test_names_of_images_are_read_only(own_data: OwnData, image: str) -> None:
    own_data.content["images"][0]["file_name"] = image
    before = files(own_data.root.parent) | {own_data.json_file}
    assert own_data.run().message is not None
    assert {path for path in files(own_data.root.parent) - before if not path.is_relative_to(own_data.root / "out1")} == set()


@pytest.mark.parametrize(
    "address",
    [
        "https://host/../../../etc/m.pth",
        "https://host/%2e%2e%2f%2e%2e%2fm.pth",
        "https://../m.pth",
        "https://host/..",
        "https://host/" + "m" * 500 + ".pth",
        "https://host/m.pth?x=../../../y",
        "https://host\\..\\m.pth",
        "https://host:80/.pin.json",
    ],
)
def test_addresses_stay_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    path = cached_file(address)
    assert path.resolve().parents[2] == tmp_path.resolve() / "weights" or path.resolve().parents[1] == tmp_path.resolve() / "weights"
    assert len(path.name) <= 120 and len(path.parent.name) <= 120 and path.name != ".pin.json"


@pytest.mark.parametrize(
    "address", ["https://", "https:///m.pth", "http://[::1/m.pth", "https://host:port/m.pth", "https://a b/m.pth", "m.pth"]
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(CheckpointError, match="is no address of a file"):
        fetch(address)


def test_addresses_with_a_password_are_not_repeated() -> None:
    with pytest.raises(CheckpointError, match="holds a user's name") as error:
        fetch("https://user:secret@host/m.pth")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("name", ["detkit://../../x", "detkit:///etc/passwd", "detkit://"])
def test_names_of_the_zoo(own_data: OwnData, name: str) -> None:
    assert_ends_well(own_data.run("MODEL.WEIGHTS", name), "The model zoo has no weights")
