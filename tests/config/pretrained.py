"""The addresses of pretrained weights in our configs: which network each is, and who offers it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from detectron2.config import CfgNode

__all__ = ["address_of", "kind_of", "pretrained_weights"]

FILE = Path(__file__).parent / "pretrained_weights.json"


@cache
def pretrained_weights() -> dict[str, dict[str, str]]:
    """Address -> ``kind``, the network and its training, and ``source``, where the address is offered."""
    return json.loads(FILE.read_text())


def address_of(cfg: CfgNode) -> str:
    """Where a config's training starts: ``MODEL.WEIGHTS``, else the weights of the backbone; "" for random weights."""
    node = cfg.MODEL.BACKBONE
    if cfg.MODEL.WEIGHTS or not node.WEIGHTS:
        return cfg.MODEL.WEIGHTS
    return f"timm:{node.ARCH}" if node.WEIGHTS == "timm" else node.WEIGHTS


def kind_of(cfg: CfgNode) -> str | None:
    """Which network's weights a config starts from; None for random weights."""
    address = address_of(cfg)
    return pretrained_weights()[address]["kind"] if address else None
