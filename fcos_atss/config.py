"""The keys of FCOS, FCOS as a region proposal network, and ATSS."""

from __future__ import annotations

from detectron2.config import CfgNode

from detkit.config.dense import DENSE_LIMITS, DENSE_TEST_LIMITS, dense_node

__all__ = ["CONFIG_LIMITS", "add_config", "add_fcos_config", "add_fcos_rpn_config", "add_atss_config"]

#: what the keys may be, by section
CONFIG_LIMITS = {
    "MODEL.FCOS": {**DENSE_LIMITS, **DENSE_TEST_LIMITS},
    "MODEL.ATSS": {**DENSE_LIMITS, **DENSE_TEST_LIMITS},
    "MODEL.FCOS_RPN": {**DENSE_LIMITS, "SIZE_OF_INTEREST": "(0, inf)"},
}


def add_fcos_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.FCOS``: FCOS as in the paper's first version, without center sampling (tianzhi0549/FCOS ``fcos_R_50_FPN_1x``)."""
    cfg.MODEL.FCOS = dense_node()


def add_fcos_rpn_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.FCOS_RPN``: the keys of FCOS that a proposal generator has, but for those that Detectron2 has in ``MODEL.RPN``."""
    node = dense_node()
    for key in ("NUM_CLASSES", "IN_FEATURES", "PLUS_ONE", "IGNORE_PADDING", "AUXILIARY", "TEST"):
        del node[key]
    # upper bound of a level's range of sizes, in its strides (FCOS, section 3.2: 64 pixels at stride 8); the last level has none.
    # Takes the place of MODEL.ASSIGNERS.FCOS.SIZES_OF_INTEREST, so that it fits P2-P6 as well as P3-P7.
    node.SIZE_OF_INTEREST = 8.0
    cfg.MODEL.FCOS_RPN = node


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
    """Adds the keys of all."""
    add_fcos_config(cfg)
    add_fcos_rpn_config(cfg)
    add_atss_config(cfg)
