"""Published models by name, in the manner of ``detectron2.model_zoo``."""

from __future__ import annotations

from pathlib import Path

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from detkit.config import get_cfg, usable_device
from detkit.config_files import cache_folder
from detkit.config_files import get_config_file as _path_of

from .table import OWN_SOURCE, ZooError, find

__all__ = ["SCHEME", "get", "get_checkpoint_url", "get_config", "get_config_file", "made_file", "weights_of"]

#: of the addresses that ``MODEL.WEIGHTS`` takes: ``detkit://NAME``
SCHEME = "detkit://"


def weights_of(name: str) -> str:
    """What ``MODEL.WEIGHTS`` has to be for the weights of a name."""
    return SCHEME + find(name).name


def get_config_file(name: str) -> str:
    """The path of the config file that the weights of a name belong to.

    Raises:
        ZooError: there are no weights of that name.
    """
    return _path_of(str(find(name).config))


def get_config(name: str, trained: bool = True) -> CfgNode:
    """The config that the weights of a name belong to, on the GPU where there is one, else on the CPU.

    Example::

        >>> cfg = get_config("fcos_R_50_FPN_1x_mmdet")
        >>> cfg.MODEL.WEIGHTS
        'detkit://fcos_R_50_FPN_1x_mmdet'

    Args:
        name: one of :func:`available`.
        trained: ``MODEL.WEIGHTS`` names the published weights; else it names what the config's training starts from.

    Raises:
        ZooError: there are no weights of that name.
    """
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(name))
    if trained:
        cfg.MODEL.WEIGHTS = weights_of(name)
    cfg.MODEL.DEVICE = usable_device("cuda")
    return cfg


def get_checkpoint_url(name: str) -> str:
    """Where the weights of a name are fetched from.

    Raises:
        ZooError: there are no weights of that name, or no program can fetch them; the message names the page that they are on.
    """
    entry = find(name)
    if entry.source == OWN_SOURCE:
        raise ZooError(
            f"The weights '{name}' are made and not fetched, by a training of some minutes. In a clone of the project: "
            f"python tools/quick_models.py {name}"
        )
    if entry.address is None:
        raise ZooError(
            f"No address is known from which a program could fetch the weights '{name}'; see {entry.page}. "
            f"Who has the file makes it known under its name: python tools/convert.py FILE --name {name}"
        )
    return entry.address


def made_file(name: str) -> Path:
    """Where ``tools/quick_models.py`` leaves the weights of a model of our own."""
    return cache_folder() / "models" / name / "model.safetensors"


def get(name: str, trained: bool = True) -> nn.Module:
    """The model of a name, with its published weights in evaluation mode, or with random ones in training mode.

    Raises:
        ZooError: there are no weights of that name.
        CheckpointError: they could not be fetched, or are not what they should be.
    """
    cfg = get_config(name)
    model = build_model(cfg)
    if trained:
        DetectionCheckpointer(model.eval()).load(cfg.MODEL.WEIGHTS)
    return model
