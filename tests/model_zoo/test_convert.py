"""Real files of weights, with all that lies in them, become files of ours."""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
import types
import zlib
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from detkit.checkpoint import CheckpointError, convert_file, convert_state_dict, read_checkpoint, zoo_file
from detkit.checkpoint.convert import empty_model
from detkit.model_zoo import ZooError, find

from .key_lists import MissingGoldensError, key_list
from .serving import CONFIG, ROW, small_weights, with_rows

_SPEC = importlib.util.spec_from_file_location("convert", Path(__file__).parents[2] / "tools" / "convert.py")
assert _SPEC and _SPEC.loader
convert = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(convert)
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return small_weights()


def below(prefix: str, weights: Weights) -> Weights:
    return {prefix + key: value for key, value in weights.items()}


@pytest.fixture
def hub() -> Iterator[type]:
    """mmengine's classes by their names, as far as files hold them; they are gone when the file is read."""

    class HistoryBuffer:
        def __init__(self) -> None:
            self.log_history = np.array([0.5, 0.25])

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = "mmengine.logging.history_buffer", "HistoryBuffer"
    names = ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    sys.modules[names[-1]].HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    yield HistoryBuffer
    for name in names:
        sys.modules.pop(name, None)


#: what lies around the weights in published files
WRAPPERS: dict[str, Callable[[Weights], Any]] = {
    "bare": lambda w: w,
    "parallel": lambda w: below("module.", w),
    "parallel twice": lambda w: {"state_dict": below("module.module.", w)},
    "detectron2": lambda w: {"model": w, "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}},
    "arrays": lambda w: {"model": {key: value.numpy() for key, value in w.items()}, "__author__": "somebody"},
    "mmcv": lambda w: {
        "meta": {"epoch": 12, "time": "now", "CLASSES": ("one", "two"), "lr": np.float64(0.01), "mAP": (np.float32(0.4), np.int64(3))},
        "state_dict": w,
        "optimizer": {"state": {}, "param_groups": []},
    },
    "averages of mmengine": lambda w: {"state_dict": below("module.", w) | {"steps": torch.tensor(9)}},
    "half": lambda w: {"state_dict": {key: value.half() if value.is_floating_point() else value for key, value in w.items()}},
    "command line": lambda w: {"model": w, "args": Namespace(lr=0.1)},
}


@pytest.mark.parametrize(
    ("wrapper", "suffix"),
    [(name, (".pth", ".safetensors")[number % 2]) for number, name in enumerate([*WRAPPERS, "mmengine"])] + [("mmengine", ".safetensors")],
)
def test_wrappers(wrapper: str, suffix: str, weights: Weights, tmp_path: Path, hub: type) -> None:
    source, target = tmp_path / ("in.pkl" if wrapper == "arrays" else "in.pth"), tmp_path / f"out{suffix}"
    if wrapper == "mmengine":
        content = {
            "meta": {"epoch": 3, "dataset_meta": {"classes": ("one", "two"), "palette": [(0, 0, 0)]}, "seed": np.int64(1)},
            "state_dict": weights,
            "message_hub": {"log_scalars": {"train/loss": hub()}, "runtime_info": {"iter": 9}, "resumed_keys": {}},
            "optimizer": {"state": {}, "param_groups": []},
            "param_schedulers": [{"last_step": 3}],
        }
    else:
        content = WRAPPERS[wrapper](weights)
    if wrapper == "arrays":
        source.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, source)
    for name in [name for name in sys.modules if name.startswith("mmengine")]:
        del sys.modules[name]
    convert_file(source, target, config=CONFIG)
    written = read_checkpoint(target)["model"]
    rounded = {key: value.half().float() if wrapper == "half" and value.is_floating_point() else value for key, value in weights.items()}
    torch.testing.assert_close(dict(written), {key: rounded[key] for key in written})
    assert written.keys() >= {key for key in weights if not key.endswith("num_batches_tracked")}
    if wrapper in ("mmcv", "mmengine"):
        assert names_in(target) == ["one", "two"]


def names_in(path: Path) -> list[str]:
    if path.suffix == ".pth":
        return torch.load(path, weights_only=True)["classes"]
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["classes"])


def test_weights_beside_others(weights: Weights, tmp_path: Path) -> None:
    source, target = tmp_path / "in.pth", tmp_path / "out.pth"
    averages = {key: value + 1 for key, value in weights.items()}
    torch.save({"state_dict": weights, "ema_state_dict": below("module.", averages) | {"steps": torch.tensor(1)}}, source)
    convert_file(source, target, config=CONFIG, part="ema_state_dict")
    key = "head.cls_score.bias"
    torch.testing.assert_close(read_checkpoint(target)["model"][key], averages[key])
    with pytest.raises(CheckpointError, match=r"no weights under 'model_ema'; there are some under ema_state_dict, model"):
        convert_file(source, target, config=CONFIG, part="model_ema")


#: one row of every source, the smallest where there is a choice
ROWS = (
    "fcos_MobileNetV2_c128_FPN_1x",
    "atss_R_50_FPN_1x",
    "fcos_rt_DLA_34_FPN_4x_adelaidet",
    "retinanet_R_18_FPN_1x_mmdet",
    "tood_R_50_FPN_1x_mmdet",
    "sparsercnn_R_50_FPN_100pro_3x",
    "sparsercnn_R_50_FPN_100pro_1x_mmdet",
    "dw_refine_R_50_FPN_1x",
    "lsnet_R_50_FPN_2x_ms",
    "retinanet_R_50_FPN_1x_detectron2",
    "fcos_R_50_FPN_1x_torchvision",
)


@pytest.mark.parametrize("name", ROWS)
def test_a_file_of_every_source(name: str, tmp_path: Path) -> None:
    """Every value is a number that follows from its name, stored once: so the file is small, and each has to reach its place."""
    entry = find(name)
    try:
        shapes = key_list(entry)
    except MissingGoldensError as error:
        pytest.skip(str(error))
    state = {key: torch.tensor(zlib.crc32(key.encode()) % 997 / 64.0).expand(shape) for key, shape in shapes.items()}
    if name.endswith("_mmdet"):  # averages of weights by a hook of mmcv
        state |= {f"ema_{key.replace('.', '_')}": value for key, value in state.items()}
    source = tmp_path / "published.pth"
    torch.save({"state_dict": state, "meta": {"epoch": 1}, "optimizer": {"param_groups": []}}, source)
    read = read_checkpoint(source)["model"]
    model = empty_model(str(entry.config))
    converted, report = convert_state_dict(read, model)
    assert report.complete and report.source == entry.layout, str(report)
    assert all(value.shape == model.state_dict()[key].shape for key, value in converted.items())
    used = {key: value for key, value in state.items() if key not in report.ignored}
    assert numbers(converted) == numbers(used) and len(report.loaded) == len(used)


def numbers(state: Weights) -> set[int]:
    """The numbers of the tensors, but for the epsilon that is taken from the variances of fixed batch norms."""
    return {round(float(value[(0,) * value.dim()]) * 64) for value in state.values()}


def test_command_line(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "in.pth", tmp_path / "out.safetensors"
    torch.save({"state_dict": weights}, source)
    convert.main([str(source), str(target), "--config-file", CONFIG, "--half"])
    assert "weights from the layout of detkit" in capsys.readouterr().out
    assert read_checkpoint(target)["model"]["head.cls_score.bias"].dtype == torch.float16
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    with_rows(monkeypatch, ROW)
    with pytest.raises(ZooError, match="No address is known"):
        zoo_file(ROW.name)
    convert.main([str(source), "--name", ROW.name])
    assert zoo_file(ROW.name).is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["OUT.pth"], "error: .* is no file that the model zoo knows"),
        (["OUT.pth", "--config-file", "fcos/fcos_R_50_FPN_1x.yaml"], "error: .*does not fit fcos/fcos_R_50_FPN_1x.yaml in full"),
        (["OUT.pth", "--name", "fcos_R_50_FPN_1x_torchvision"], "error: .* is not the published file of .* 99b0c9b7"),
        (["OUT.onnx", "--config-file", CONFIG], "error: .*OUT.onnx has to end in .pth or .safetensors"),
        (["OUT.pth", "--name", "fcos_R_50"], "error: The model zoo has no weights 'fcos_R_50'"),
        (["OUT.pth", "--config-file", "nowhere.yaml"], "error: there is no config file 'nowhere.yaml'"),
    ],
)
def test_bad_input_is_one_error(options: list[str], message: str, weights: Weights, tmp_path: Path) -> None:
    source = tmp_path / "in.pth"
    torch.save({"state_dict": weights}, source)
    with pytest.raises(SystemExit, match=message):
        convert.main([str(source), str(tmp_path / options[0]), *options[1:]])
    assert not list(tmp_path.glob("OUT*"))
