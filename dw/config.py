"""The keys of DW."""

from __future__ import annotations

from detectron2.config import CfgNode

from detkit.config.dense import DENSE_LIMITS, DENSE_TEST_LIMITS, dense_node

__all__ = ["CONFIG_LIMITS", "add_config"]

#: what the keys may be, by section
CONFIG_LIMITS = {"MODEL.DW": {**DENSE_LIMITS, **DENSE_TEST_LIMITS}}


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.DW``: FCOS's head, class times objectness as score (DW, section 3.5; strongwolf/DW ``dw_head.py``).

    ``HEAD.NAME`` is ``"DenseHead"``, ``"RefiningHead"`` (box refinement, section 3.4) or ``"TOODHead"`` (DW* of table 7). The weighting's
    own keys are below ``MODEL.ASSIGNERS.DW``.
    """
    cfg.MODEL.DW = dense_node(
        ASSIGNER="DWAssigner",
        HEAD__QUALITY="box",
        HEAD__PRIOR_PROB=0.02,
        HEAD__BOX_BIAS=4.0,
        BOX_CODER__NAME="relu",
        LOSS__BOX="giou",
        TEST__SCORE="product",
        TEST__THRESHOLD_ON="product",
    )
