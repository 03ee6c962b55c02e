"""What two or more of the detectors share: geometry, assigners, losses, heads, data, training engine, report."""

__version__ = "0.1.0"
