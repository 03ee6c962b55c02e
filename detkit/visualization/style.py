"""The colors of the page, all from Okabe and Ito's palette, which color-blind readers can tell apart."""

from __future__ import annotations

__all__ = ["CATEGORICAL", "CROWD", "FALSE", "FOUND", "HIT", "MISSED"]

#: for things to tell apart in pictures; readable on photographs with a dark outline
CATEGORICAL = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2", "#ffffff")

FOUND = "#56b4e9"
MISSED = "#e69f00"
HIT = "#00c792"
FALSE = "#ff6a1f"
CROWD = "#bbbbbb"
