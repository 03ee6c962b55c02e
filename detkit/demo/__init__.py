"""Detections on pictures, videos and cameras, from a command line: reading, predicting and writing at the same time."""

from detkit.engine import quiet_dependencies

quiet_dependencies()

# ruff: noqa: E402
from detkit.demo.main import run
from detkit.demo.sinks import CocoFile, PictureFolder, VideoFile, Window
from detkit.demo.sources import Camera, DemoError, Frame, Pictures, Video, find_pictures

__all__ = [
    "Camera",
    "CocoFile",
    "DemoError",
    "Frame",
    "PictureFolder",
    "Pictures",
    "Video",
    "VideoFile",
    "Window",
    "find_pictures",
    "run",
]
