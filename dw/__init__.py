"""DW (dual weighting): importing this package registers the meta-architecture and its refining head."""

from .config import CONFIG_LIMITS, add_config
from .detector import DW
from .refine import RefiningHead, refine_distances

__all__ = ["CONFIG_LIMITS", "DW", "RefiningHead", "add_config", "refine_distances"]
