"""FCOS and ATSS: importing this package registers both meta-architectures, and FCOS as a proposal generator."""

from .config import CONFIG_LIMITS, add_atss_config, add_config, add_fcos_config, add_fcos_rpn_config
from .detector import ATSS, FCOS
from .proposals import FCOSRPN

__all__ = ["ATSS", "CONFIG_LIMITS", "FCOS", "FCOSRPN", "add_atss_config", "add_config", "add_fcos_config", "add_fcos_rpn_config"]
