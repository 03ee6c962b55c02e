"""LSNet: importing this package registers the meta-architecture and its mapper."""

from .config import CONFIG_LIMITS, add_config
from .detector import LSNet
from .mapper import LandmarkMapper

__all__ = ["CONFIG_LIMITS", "LSNet", "LandmarkMapper", "add_config"]
