"""Reading files of weights: what is read, and what is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from detkit.checkpoint import CheckpointError, read_checkpoint


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(3)}


@pytest.mark.parametrize("wrapper", ["", "model", "state_dict", "model_state"])
def test_torch_files(tmp_path: Path, wrapper: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save({wrapper: WEIGHTS, "iteration": 7} if wrapper else WEIGHTS, path)
    content = read_checkpoint(path)
    torch.testing.assert_close(content["model"], WEIGHTS)
    assert content.get("iteration") == (7 if wrapper else None)


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(WEIGHTS, path)
    torch.testing.assert_close(read_checkpoint(path)["model"], WEIGHTS)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_arrays(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "weights.pkl"
    arrays = {key: value.numpy() for key, value in WEIGHTS.items()} | {"scalar": np.float32(3)}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}, protocol))
    read = read_checkpoint(path)["model"]
    np.testing.assert_array_equal(read["a.weight"], arrays["a.weight"])
    assert read["scalar"] == 3


def test_caffe2_names(tmp_path: Path) -> None:
    path = tmp_path / "R-50.pkl"
    names = ["conv1_w", "res_conv1_bn_s", "res_conv1_bn_b", "res2_0_branch2a_w", "res2_0_branch1_bn_s", "conv1_w_momentum", "fc1000_w"]
    path.write_bytes(pickle.dumps({"blobs": {name: np.zeros(1) for name in names}}))
    assert set(read_checkpoint(path)["model"]) == {
        "stem.conv1.weight",
        "stem.conv1.norm.weight",
        "stem.conv1.norm.bias",
        "res2.0.conv1.weight",
        "res2.0.shortcut.norm.weight",
        "fc1000.weight",
    }


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".pt"])
def test_hostile_files_run_nothing(tmp_path: Path, suffix: str) -> None:
    path, trace = tmp_path / f"hostile{suffix}", tmp_path / "trace"
    content = {"model": WEIGHTS | {"a.bias": Hostile(trace)}}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": {"a": np.zeros(2), "b": Hostile(trace)}}))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match="could run code") as error:
        read_checkpoint(path)
    assert "mkdir" in str(error.value)
    assert str(path) in str(error.value)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\x80\x02}q\x00", b"PK\x03\x04"])
def test_damaged_files(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged|holds no state dict"):
        read_checkpoint(path)


def test_truncated_files(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": {"a": torch.rand(1000)}}, path)
    whole = path.read_bytes()
    for part in (0.2, 0.5, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(path)


def test_missing_file_and_other_content(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        read_checkpoint(tmp_path / "nowhere.pth")
    path = tmp_path / "list.pth"
    torch.save([torch.zeros(1)], path)
    with pytest.raises(CheckpointError, match="holds no state dict, but a list of 1 entries"):
        read_checkpoint(path)
