"""FCOS and ATSS: importing this package registers both meta-architectures."""

from .config import add_atss_config, add_config, add_fcos_config
from .detector import ATSS, FCOS

__all__ = ["ATSS", "FCOS", "add_atss_config", "add_config", "add_fcos_config"]
