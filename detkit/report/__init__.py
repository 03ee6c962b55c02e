"""The HTML page of a run: numbers, curves, pictures of detections and of what the assigner picks."""

from .errors import ReportError
from .page import write_report

__all__ = ["ReportError", "write_report"]
