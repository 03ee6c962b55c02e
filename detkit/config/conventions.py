"""What the numbers of weights mean: the settings that weights and config must share for predictions to be right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from .methods import method_node
from .reader import ConfigError, flatten

__all__ = ["Conventions"]

#: of the network and its images, whatever the method
_SHARED = (
    "INPUT.FORMAT",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "MODEL.RESNETS.STRIDE_IN_1X1",
    "MODEL.RESNETS.RES5_DILATION",
    "MODEL.FPN.TOP_BLOCK",
    "MODEL.FPN.RELU_BEFORE_P7",
    "MODEL.FPN.FUSE_TYPE",
)
#: below the section of the method: what training alone reads, what shapes say already, and what is a choice of whoever predicts
_CHOICES: tuple[str, ...] = ("ASSIGNER", "INIT_ASSIGNER", "IGNORE_PADDING", "NUM_CLASSES", "PROPOSAL_INIT", "LOSS.", "TEST.")
_CHOICES += ("HEAD.PRIOR_PROB", "HEAD.BOX_BIAS", "HEAD.BOX_PRED_GAIN", "HEAD.DROPOUT", "HEAD.GRADIENT_SHARE", "HEAD.START_SIZE")
_CHOICES += ("HEAD.NUM_CONVS", "HEAD.NUM_SHARED_CONVS", "HEAD.CHANNELS", "HEAD.NORM", "HEAD.TOWER_BIAS", "HEAD.SCALES", "HEAD.DCN_ON_")
_CHOICES += ("NUM_PROPOSALS", "NUM_STAGES", "CONTOUR_LANDMARKS", "CPV.")
#: of the test settings, what a score and a box is
_SCORE = ("TEST.SCORE", "TEST.QUALITY_FROM", "TEST.VOTE_SIGMA")
#: what a box coder reads that starts from anchors, not from points
_OF_ANCHORS = (".BOX_CODER.DELTA", ".ANCHORS.SCALES", ".ANCHORS.RATIOS", ".ANCHORS.WHOLE_PIXELS")
#: means of pixels are rounded by some codes
_PIXELS = 0.01


@dataclass(frozen=True)
class Conventions:
    """The settings that decide what weights mean, by their keys.

    Thresholds, losses and training settings are not among them, nor what names and shapes of weights tell.

    Attributes:
        section: of the method, ``MODEL.ATSS`` for instance; keys below it start with a dot, so that methods which are made of the same
            parts can be compared.
        values: key to value; numbers, texts and lists.
    """

    section: str
    values: Mapping[str, Any]

    @classmethod
    def of(cls, cfg: CfgNode, section: str | None = None) -> Conventions | None:
        """Those of a config; None for an architecture that no section of the config describes.

        Args:
            cfg: the whole config.
            section: of the method; None: that of ``MODEL.META_ARCHITECTURE``.
        """
        try:
            section = section or method_node(cfg).path
        except ConfigError:
            return None
        settings = dict(flatten(cfg))
        own = {key.removeprefix(section): value for key, value in settings.items() if key.startswith(section + ".")}
        unused = () if own.get(".BOX_CODER.NAME", "delta") == "delta" else _OF_ANCHORS
        values = {key: value for key, value in own.items() if _counts(key[1:]) and not key.startswith(unused)}
        values |= {key: settings[key] for key in _SHARED if key in settings}
        if "resnet" not in settings["MODEL.FPN.BOTTOM_UP"]:  # of torchvision or timm
            values = {key: value for key, value in values.items() if not key.startswith("MODEL.RESNETS.")}
            values["MODEL.BACKBONE.ARCH"] = settings.get("MODEL.BACKBONE.ARCH")
        return cls(section, {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()})

    def differences(self, needed: Conventions) -> Iterator[str]:
        """What is otherwise than weights need it, as "MODEL.ATSS.ANCHORS.OFFSET is 0.5 and has to be 0.0"."""
        for key, value in needed.values.items():
            name = self.section + key if key.startswith(".") else key
            if key not in self.values:
                yield f"{name} is missing and has to be {value!r}"
            elif not _equal(key, self.values[key], value):
                yield f"{name} is {self.values[key]!r} and has to be {value!r}"


def _counts(key: str) -> bool:
    return key in _SCORE or not key.startswith(_CHOICES)


def _equal(key: str, one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_equal(key, a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=_PIXELS if "PIXEL" in key else 0.0)
    return one == other
