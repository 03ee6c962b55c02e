"""The HTML page of a run: numbers, curves, pictures of detections and of what the assigner picks."""

from .assignment import AssignmentPicture, assignment_pictures
from .errors import ReportError
from .page import write_report

__all__ = ["AssignmentPicture", "ReportError", "assignment_pictures", "write_report"]
