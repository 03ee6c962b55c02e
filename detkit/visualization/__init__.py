"""Drawing: detections, figures and what an assigner picks, as pictures. The report, the analysis and the methods stand on it."""

from .assignment import AssignmentPicture, assignment_pictures
from .figures import Line, line_figure
from .pictures import DrawnObject, Picture, PictureError, RGBImage, canvas, draw_objects, encoded, read_rgb

__all__ = [
    "AssignmentPicture",
    "DrawnObject",
    "Line",
    "Picture",
    "PictureError",
    "RGBImage",
    "assignment_pictures",
    "canvas",
    "draw_objects",
    "encoded",
    "line_figure",
    "read_rgb",
]
