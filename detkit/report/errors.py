"""The error of the report."""

from __future__ import annotations

__all__ = ["ReportError"]


class ReportError(ValueError):
    """A run that cannot be reported on. The message names the file and the remedy."""
