"""The registry of dense heads. A new one is one class, ``@DENSE_HEAD_REGISTRY.register()``, named by a detector's ``HEAD.NAME``."""

from __future__ import annotations

from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import nn

from detkit.registry import registered

__all__ = ["DENSE_HEAD_REGISTRY", "build_dense_head"]

DENSE_HEAD_REGISTRY = Registry("DENSE_HEAD")
DENSE_HEAD_REGISTRY.__doc__ = """
Modules from a list of features to :class:`detkit.structures.DenseOutputs`, by class name. They are called with the keys of their detector
(``cfg.MODEL.FCOS``, ...) and with what follows from the pyramid and the anchors: ``in_channels``, ``num_levels``, ``num_anchors``.
"""


def build_dense_head(node: CfgNode, *, in_channels: int, num_levels: int, num_anchors: int) -> nn.Module:
    """The head that ``node.HEAD.NAME`` names.

    Args:
        node: keys of a dense detector, see :func:`detkit.config.dense.dense_node`.
        in_channels: width of the pyramid.
        num_levels: of the pyramid.
        num_anchors: per location.

    Raises:
        KeyError: no such head; names the nearest that exists.
    """
    head = registered(DENSE_HEAD_REGISTRY, node.HEAD.NAME, "dense head")
    return head(node, in_channels=in_channels, num_levels=num_levels, num_anchors=num_anchors)
