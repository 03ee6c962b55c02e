"""Files whose bytes have changed, and tensors that are no weights, are refused in every way of loading."""

from __future__ import annotations

import hashlib
import logging
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from safetensors.torch import save, save_file
from torch import Tensor, nn

from detkit import Predictor
from detkit.backbones.pretrained import load_pretrained
from detkit.checkpoint import CheckpointError, CheckpointFolder, load_weights, non_finite, read_checkpoint
from detkit.config import ConfigError
from tests.toys.detectors import tiny_cfg

KEY = "head.cls_score.weight"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model(tiny_cfg()).eval()


def flip_a_bit(path: Path, *, at: float = 0.5) -> Path:
    """Changes one bit of a file, the given share of the way through it."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 0x40
    path.write_bytes(content)
    return path


def numbers_of(path: Path, tensor: Tensor) -> float:
    """Where the numbers of a tensor lie in a file, as a share of it."""
    content = path.read_bytes()
    return (content.index(tensor.numpy().tobytes()) + tensor.nbytes // 2) / len(content)


def written(model: nn.Module, path: Path) -> Path:
    torch.save({"model": model.state_dict(), "optimizer": {"state": {0: {"momentum_buffer": torch.arange(999.0)}}}}, path)
    return path


@pytest.mark.parametrize("what", ["weight", "optimizer"])
def test_a_changed_bit_of_a_checkpoint_is_refused(model: nn.Module, tmp_path: Path, what: str) -> None:
    path = written(model, tmp_path / "model_final.pth")
    assert read_checkpoint(path)
    changed = model.state_dict()[KEY] if what == "weight" else torch.arange(999.0)
    flip_a_bit(path, at=numbers_of(path, changed))
    assert torch.load(path, weights_only=True)  # which does not notice
    readers: list[Callable[[], Any]] = [
        lambda: read_checkpoint(path),
        lambda: load_weights(model, path),
        lambda: Predictor(tiny_cfg(), weights=path),
    ]
    for read in readers:
        with pytest.raises(CheckpointError, match=r"model_final\.pth is damaged: its entry '.*data/\d+' does not have the checksum"):
            read()


def test_any_changed_bit_is_refused_or_changes_nothing(model: nn.Module, tmp_path: Path) -> None:
    path = written(model, tmp_path / "model.pth")
    whole, state = path.read_bytes(), model.state_dict()
    for at in torch.linspace(0, 0.9999, 60).tolist():
        path.write_bytes(whole)
        try:
            found = read_checkpoint(flip_a_bit(path, at=at))["model"]
        except CheckpointError:
            continue
        assert all(torch.equal(found[key], value) for key, value in state.items())


def test_a_resumed_run_takes_the_checkpoint_before_a_changed_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("detkit").propagate = True
    folder = CheckpointFolder(tmp_path)
    numbers = torch.arange(999.0)
    folder.save("model_0000001", {"model": {"weight": numbers}})
    newest = folder.save("model_0000003", {"model": {"weight": numbers}})
    flip_a_bit(newest, at=numbers_of(newest, numbers))
    found = folder.load_last(read_checkpoint)
    assert found is not None and found[0].name == "model_0000001.pth"
    assert "model_0000003.pth is broken" in caplog.text and "checksum" in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"model_\xff.pth", "cannot be read"),
        (b"model_0000009.pth", "names model_0000009.pth, which is not there"),
        (b"../model_0000001.pth", "which is not there"),
        (b"", "which is not there"),
    ],
)
def test_a_changed_record_of_the_last_checkpoint_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, words: str
) -> None:
    logging.getLogger("detkit").propagate = True
    folder = CheckpointFolder(tmp_path / "run")
    for number in (1, 3):
        folder.save(f"model_000000{number}", {"model": {"weight": torch.zeros(1)}})
    (tmp_path / "model_0000001.pth").write_bytes((tmp_path / "run" / "model_0000001.pth").read_bytes())
    (tmp_path / "run" / "last_checkpoint").write_bytes(content)
    found = folder.load_last(read_checkpoint)
    assert found is not None and found[0].name == "model_0000003.pth"
    assert words in caplog.text


def test_an_older_checkpoint_that_is_named_as_the_last_is_no_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("detkit").propagate = True
    folder = CheckpointFolder(tmp_path)
    for number in (1, 3):
        folder.save(f"model_000000{number}", {"model": {"weight": torch.zeros(1)}})
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    found = folder.load_last(read_checkpoint)
    assert found is not None and found[0].name == "model_0000001.pth"
    assert "names model_0000001.pth, though model_0000003.pth is newer" in caplog.text


@pytest.mark.parametrize("form", ["0x{}", "{}"])
def test_safetensors_with_a_hash_of_another_content(tmp_path: Path, form: str) -> None:
    tensors = {"weight": torch.arange(99.0)}
    raw = save(tensors)
    digest = hashlib.sha256(raw[8 + int.from_bytes(raw[:8], "little") :]).hexdigest()
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, {"modelspec.hash_sha256": form.format(digest)})
    assert torch.equal(read_checkpoint(path)["model"]["weight"], tensors["weight"])
    flip_a_bit(path, at=0.9)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged: its tensors do not have the hash"):
        read_checkpoint(path)


def with_a(number: float) -> Callable[[Tensor], Tensor]:
    def change(value: Tensor) -> Tensor:
        value = value.clone()
        value.view(-1)[0] = number
        return value

    return change


CHANGES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "nan": (with_a(math.nan), rf"'{KEY}' of the checkpoint has 1 of \d+ numbers that are NaN or infinite"),
    "infinite": (with_a(-math.inf), "1 of .* numbers that are NaN or infinite"),
    "too large for float32": (lambda value: value.double() * 1e300, "numbers that are NaN or infinite"),
    "int8": (lambda value: (value * 100).to(torch.int8), rf"'{KEY}' of the checkpoint is of torch.int8, but the model has torch.float32"),
    "bool": (lambda value: value > 0, "is of torch.bool"),
    "complex": (lambda value: value.to(torch.complex64), "is of torch.complex64"),
    "sparse": (Tensor.to_sparse, f"'{KEY}' of the checkpoint is a sparse tensor"),
    "meta": (lambda value: value.to("meta"), f"'{KEY}' has a shape, but no numbers"),
    "list": (Tensor.tolist, f"'{KEY}' of the checkpoint is a list, not a tensor"),
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("training", [False, True])
def test_tensors_that_are_no_weights(model: nn.Module, tmp_path: Path, change: str, training: bool) -> None:
    spoil, words = CHANGES[change]
    state = model.state_dict()
    path = tmp_path / "model.pth"
    torch.save({"model": {**state, KEY: spoil(state[KEY])}}, path)
    model.train(training)
    try:
        with pytest.raises(CheckpointError, match=rf"model\.pth: .*{words}"):
            load_weights(model, path)
    finally:
        model.eval()


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of quantized tensors
def test_quantized_weights(model: nn.Module, tmp_path: Path) -> None:
    state = model.state_dict()
    torch.save({"model": {**state, KEY: torch.quantize_per_tensor(state[KEY], 0.1, 0, torch.qint8)}}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=f"'{KEY}' of the checkpoint is a quantized tensor"):
        load_weights(model, tmp_path / "model.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_floating_point_are_taken(model: nn.Module, tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save(
        {key: value.to(dtype) if value.is_floating_point() else value for key, value in model.state_dict().items()}, tmp_path / "m.pth"
    )
    assert load_weights(model, tmp_path / "m.pth").complete


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({3: torch.zeros(1)}, "The key 3 of the checkpoint is of the type int"),
        ({}, "holds no weights"),
    ],
)
def test_keys_that_are_no_texts_and_none_at_all(model: nn.Module, tmp_path: Path, content: dict[Any, Any], words: str) -> None:
    torch.save({"model": content}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=words):
        load_weights(model, tmp_path / "model.pth")


@pytest.mark.parametrize("kind", [object, str])
def test_arrays_of_no_numbers(model: nn.Module, tmp_path: Path, kind: type) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": {KEY: np.zeros(3).astype(kind)}}))
    with pytest.raises(CheckpointError, match=f"'{KEY}' of the checkpoint is an array of"):
        load_weights(model, tmp_path / "model.pkl")


def test_a_plain_load_state_dict_refuses_them_too(model: nn.Module) -> None:
    """As Detectron2's own checkpointer calls it."""
    state = model.state_dict()
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        model.load_state_dict({**state, KEY: with_a(math.nan)(state[KEY])})


def test_weights_of_a_feature_extractor() -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    state = {key: with_a(math.nan)(value) for key, value in network.state_dict().items()}
    with pytest.raises(ConfigError, match=r"MODEL\.BACKBONE\.WEIGHTS 'x' cannot be used: .*'0\.weight'.* NaN or infinite"):
        load_pretrained(network, state, source="x")


def test_what_is_not_finite_is_named_wherever_it_stands() -> None:
    bad = torch.tensor([1.0, torch.inf])
    tree = {"a": bad, "b": [torch.zeros(1), {"c": (torch.zeros(1), bad)}], 3: bad.to(torch.float16)}
    assert list(non_finite(tree)) == ["a", "b.1.c.1", "3"]
