"""From a meta-architecture to its section of the config."""

from __future__ import annotations

from detectron2.config import CfgNode

from .reader import ConfigError
from .section import Section

__all__ = ["method_node"]

#: sections of Detectron2's own that are not named as the architecture is
_SECTIONS = {"GeneralizedRCNN": "ROI_HEADS", "PanopticFPN": "ROI_HEADS", "SemanticSegmentor": "SEM_SEG_HEAD"}


def method_node(cfg: CfgNode, architecture: str | None = None) -> Section:
    """The section below ``MODEL`` that belongs to a meta-architecture: ``MODEL.SPARSE_RCNN`` to ``"SparseRCNN"``, for instance.

    Args:
        cfg: the whole config.
        architecture: its name; None: ``MODEL.META_ARCHITECTURE``.

    Raises:
        ConfigError: the architecture has no section.
    """
    architecture = architecture or cfg.MODEL.META_ARCHITECTURE
    wanted = _SECTIONS.get(architecture, architecture).replace("_", "").casefold()
    for name, value in cfg.MODEL.items():
        if isinstance(value, CfgNode) and name.replace("_", "").casefold() == wanted:
            return Section(cfg, f"MODEL.{name}")
    raise ConfigError(f"MODEL.META_ARCHITECTURE is '{architecture}', for which the config has no section.")
