"""The keys of FCOS and ATSS."""

from __future__ import annotations

from detectron2.config import CfgNode

from detkit.config.dense import dense_node

__all__ = ["add_config", "add_fcos_config", "add_atss_config"]


def add_fcos_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.FCOS``: FCOS as in the paper's first version, without centre sampling (tianzhi0549/FCOS ``fcos_R_50_FPN_1x``)."""
    cfg.MODEL.FCOS = dense_node()


def add_atss_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.ATSS``: one square anchor of 8 strides per location, GIoU (ATSS, sections 3.1 and 4)."""
    cfg.MODEL.ATSS = dense_node(
        ASSIGNER="ATSSAssigner",
        HEAD__QUALITY="box",
        BOX_CODER__NAME="delta",
        LOSS__BOX="giou",
        LOSS__BOX_WEIGHT=2.0,
    )


def add_config(cfg: CfgNode) -> None:
    """Adds the keys of both."""
    add_fcos_config(cfg)
    add_atss_config(cfg)
