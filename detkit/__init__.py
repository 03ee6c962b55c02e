"""What two or more of the detectors share: geometry, assigners, losses, heads, data, training engine, report."""

from .config_files import get_config_file

__all__ = ["get_config_file"]

__version__ = "0.1.0"
