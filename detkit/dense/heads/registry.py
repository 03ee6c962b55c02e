"""The registry of dense heads. A new one is one class, ``@DENSE_HEAD_REGISTRY.register()``, named by a detector's ``HEAD.NAME``."""

from __future__ import annotations

from fvcore.common.registry import Registry
from torch import nn

from detkit.config import Section
from detkit.registry import registered

__all__ = ["DENSE_HEAD_REGISTRY", "build_dense_head"]

DENSE_HEAD_REGISTRY = Registry("DENSE_HEAD")
DENSE_HEAD_REGISTRY.__doc__ = """
Modules from a list of features to :class:`detkit.structures.DenseOutputs`, by class name. Their ``from_config`` gets the section of their
detector (``Section(cfg, "MODEL.FCOS")``, ...) and gives arguments of the constructor; what follows from the classes, the pyramid and the
anchors is handed over beside them: ``num_classes``, ``in_channels``, ``num_levels``, ``num_anchors``.
"""


def build_dense_head(node: Section, *, num_classes: int, in_channels: int, num_levels: int, num_anchors: int) -> nn.Module:
    """The head that ``HEAD.NAME`` names.

    Args:
        node: section of a dense detector, see :func:`detkit.config.dense.dense_node`.
        num_classes: K.
        in_channels: width of the pyramid.
        num_levels: of the pyramid.
        num_anchors: per location.

    Raises:
        ConfigError: no such head, or keys that it does not read; names the nearest that exists.
    """
    head = registered(DENSE_HEAD_REGISTRY, node.HEAD.NAME, "dense head", key=f"{node.path}.HEAD.NAME")
    given = {"num_classes": num_classes, "in_channels": in_channels, "num_levels": num_levels, "num_anchors": num_anchors}
    return head(**head.from_config(node), **given)
