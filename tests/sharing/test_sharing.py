"""A model handed on: as a folder, and by a hub."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from safetensors.torch import load_file, save_file

import detkit
from detkit.checkpoint import CheckpointError
from detkit.config import ConfigError
from detkit.sharing import SHARED_FILES, model_of_run, write_shared_model
from detkit.sharing.card import card_of
from detkit.sharing.model import SharedModel
from tests.toys.detectors import tiny_cfg

from .hub import served_hub


@pytest.fixture(scope="module")
def share() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "share.py"
    spec = importlib.util.spec_from_file_location("share", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shared(share: ModuleType, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``tools/share.py`` makes of a run."""
    folder = tmp_path_factory.mktemp("shared") / "balls"
    share.main([str(trained / "out"), str(folder), "--license", "mit"])
    return folder


def test_what_is_shared_predicts_the_same_where_nothing_is_known(shared: Path, trained: Path, tmp_path: Path) -> None:
    photo = trained / "data" / "train" / "1.jpg"
    expected = detkit.Predictor.from_run(trained / "out")(photo)
    folder = shutil.copytree(shared, tmp_path / "elsewhere")
    for catalog in (DatasetCatalog, MetadataCatalog):
        if "balls_val" in catalog.list():
            catalog.remove("balls_val")
    found = detkit.Predictor.from_hub(folder)(photo)
    torch.testing.assert_close(found.scores, expected.scores)
    assert found.names == expected.names and set(found.class_names) == {"ball", "cube"}


def test_three_files_without_places_of_the_machine(shared: Path, trained: Path) -> None:
    assert sorted(path.name for path in shared.iterdir()) == sorted(SHARED_FILES)
    for name in ("config.yaml", "README.md"):
        assert str(trained) not in (shared / name).read_text()


def test_the_card_has_the_measured_numbers(shared: Path, trained: Path) -> None:
    measured = json.loads((trained / "out" / "results.json").read_text())["results"]["balls_val"]["bbox"]["AP"]
    text = (shared / "README.md").read_text()
    matter = yaml.safe_load(text.split("---")[1])
    assert matter["license"] == "mit" and matter["library_name"] == "detkit"
    (result,) = matter["model-index"][0]["results"]
    assert result["dataset"]["name"] == "balls_val" and result["metrics"][0]["value"] == pytest.approx(measured, abs=0.01)
    assert f"| balls_val | box | {measured:.1f} |" in text and "2: ball, cube." in text


def test_the_card_has_what_other_benchmarks_measure() -> None:
    coco = {"AP": 50.0, "AP50": 70.0, "AP75": 55.0, "APs": float("nan"), "APm": 40.0, "APl": 60.0, "AP-ball": 50.0}
    crowd = {"AP": 94.5, "mMR": 10.6, "Recall": 98.8, "JI": 90.1}
    results = {"balls_val": {"bbox": coco, "box_proposals": {"AR@100": 68.0}}, "crowdhuman_val": {"bbox": crowd}}
    text = card_of(SharedModel(tiny_cfg(), {}, ["ball", "cube", "disk"], results), name="x", half=False, licence=None)
    for line in (
        "| dataset | task | AP | AP50 | AP75 | APs | APm | APl |",
        "| balls_val | box | 50.0 | 70.0 | 55.0 | - | 40.0 | 60.0 |",
        "| balls_val | box_proposals | 68.0 |",
        "| dataset | task | AP | mMR | Recall | JI |",
        "| crowdhuman_val | box | 94.5 | 10.6 | 98.8 | 90.1 |",
    ):
        assert line in text.splitlines()
    assert text.count("COCO's average precision") == 1 and text.count("as the dataset's own benchmark defines it") == 2


def test_other_weights_have_no_numbers(share: ModuleType, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = shutil.copytree(trained / "out", tmp_path / "run")
    shutil.copy(run / "model_final.pth", run / "model_0000001.pth")
    share.main([str(run), str(tmp_path / "a"), "--checkpoint", "model_0000001.pth"])
    assert "names none" in capsys.readouterr().err
    text = (tmp_path / "a" / "README.md").read_text()
    assert "was not measured" in text and "model-index" not in text and "named no license" in text


def test_half_the_size(trained: Path, shared: Path, tmp_path: Path) -> None:
    model = model_of_run(trained / "out")
    folder = write_shared_model(model, tmp_path / "half", name="half", half=True)
    weights = load_file(folder / "model.safetensors")
    kept = {key for key, value in weights.items() if value.dtype == torch.float32}
    assert kept and all(key.endswith((".running_mean", ".running_var")) for key in kept)
    assert (folder / "model.safetensors").stat().st_size < 0.6 * (shared / "model.safetensors").stat().st_size
    photo = trained / "data" / "train" / "1.jpg"
    found, expected = (detkit.Predictor.from_hub(each)(photo) for each in (folder, shared))
    torch.testing.assert_close(found.scores[:10], expected.scores[:10], rtol=0, atol=2e-3)
    large = model.weights | {"head.scales.0.scale": torch.tensor(1e6)}
    write_shared_model(type(model)(model.cfg, large, model.class_names), tmp_path / "large", name="large", half=True)
    assert load_file(tmp_path / "large" / "model.safetensors")["head.scales.0.scale"].item() == 1e6  # in half precision inf would equal 1e6
    broken = type(model)(model.cfg, {"a": torch.tensor(float("nan"))}, [])
    with pytest.raises(CheckpointError, match="'a' are not finite"):
        write_shared_model(broken, tmp_path / "nan", name="nan")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty hub on this machine, and an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with served_hub() as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield address


@pytest.mark.filterwarnings("ignore:Use .content:DeprecationWarning")
def test_pushed_and_pulled(
    hub: str, share: ModuleType, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    share.main([str(trained / "out"), str(tmp_path / "balls"), "--push", "user/balls"])
    assert "/user/balls/commit/" in capsys.readouterr().out
    predictor = detkit.Predictor.from_hub("user/balls")
    assert predictor.class_names == ["ball", "cube"]
    with pytest.raises(CheckpointError, match=f"'user/cubes' could not be fetched from {hub}.* works without both"):
        detkit.Predictor.from_hub("user/cubes")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody is there: the cache is
    assert detkit.Predictor.from_hub("user/balls").class_names == ["ball", "cube"]


def test_without_the_package_only_the_hub_is_missing(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert detkit.Predictor.from_hub(shared).class_names == ["ball", "cube"]
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        detkit.Predictor.from_hub("user/balls")


def broken_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"nothing")


def changed_weights(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def other_weights(folder: Path) -> None:
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda folder: (folder / "model.safetensors").unlink(), CheckpointError, r"holds no shared model: model\.safetensors missing"),
        (lambda folder: (folder / "config.yaml").write_text("A: 1"), ConfigError, "there is no config key 'A'"),
        (broken_weights, CheckpointError, "no safetensors file, or it is damaged"),
        (changed_weights, CheckpointError, "is damaged: its tensors do not have the hash"),
        (other_weights, CheckpointError, "Not one of the checkpoint's 1 keys fits the model"),
        (shutil.rmtree, CheckpointError, "There is no folder .*would be 'user/name'"),
    ],
)
def test_broken_folders(shared: Path, tmp_path: Path, change: Callable[[Path], Any], error: type[Exception], message: str) -> None:
    folder = shutil.copytree(shared, tmp_path / "a" / "b" / "c")
    change(folder)
    with pytest.raises(error, match=message):
        detkit.Predictor.from_hub(folder)


@pytest.mark.parametrize(
    "words, message",
    [
        (["nowhere", "out"], "There is no folder 'nowhere'"),
        (["{run}", "out", "--checkpoint", "model_1.pth"], "There is no checkpoint"),
        (["{run}", "out", "--push", "balls"], "'balls' is no name on the Hugging Face Hub"),
    ],
)
def test_bad_words_end_in_one_line(
    share: ModuleType, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^error: {message}") as stopped:
        share.main([word.format(run=trained / "out") for word in words])
    assert "\n" not in str(stopped.value)
