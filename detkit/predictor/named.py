"""What a user calls a model: a name of the zoo, a config file, or a config."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from detectron2.config import CfgNode

from detkit import model_zoo
from detkit.config import ConfigError, get_cfg
from detkit.config_files import config_names, get_config_file

__all__ = ["config_and_weights"]


def config_and_weights(model: CfgNode | str | os.PathLike[str], weights: str | os.PathLike[str] | None) -> tuple[CfgNode, str]:
    """The config that a model's name or file stands for, and its weights ("" where none are named).

    Raises:
        ConfigError: nothing has that name, or a config file that cannot be used.
    """
    if isinstance(model, CfgNode):
        cfg = model
    elif str(model) in model_zoo.available():
        cfg = model_zoo.get_config(str(model))
    else:
        cfg = get_cfg()
        cfg.merge_from_file(_config_file(os.fspath(model)))
    return cfg, cfg.MODEL.WEIGHTS if weights is None else os.fspath(weights)


def _config_file(name: str) -> str:
    if Path(name).is_dir():
        raise ConfigError(f"'{name}' is a folder. A run is read with Predictor.from_run, a shared model with Predictor.from_hub.")
    if Path(name).is_file() or "://" in name:
        return name
    if name in config_names():
        return get_config_file(name)
    known = [*model_zoo.available(), *config_names()]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(
        f"There is no model '{name}': no file, no name of the model zoo (detkit.model_zoo.available() lists them), no config below "
        f"configs/.{hint}"
    )
