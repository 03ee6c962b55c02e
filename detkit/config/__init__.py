"""All config keys of the project and the safe reading of config files."""

from .conventions import Conventions
from .defaults import default_value, get_cfg
from .limits import Form, Limit, number_or_none, numbers
from .methods import method_node
from .plain_yaml import parse_plain_yaml
from .plugins import METHOD_PACKAGES, load_method_packages
from .ranges import check_config
from .reader import ConfigError, SafeCfgNode, flatten, usable_device
from .section import Section

__all__ = [
    "METHOD_PACKAGES",
    "ConfigError",
    "Conventions",
    "Form",
    "Limit",
    "SafeCfgNode",
    "Section",
    "check_config",
    "default_value",
    "flatten",
    "get_cfg",
    "load_method_packages",
    "method_node",
    "number_or_none",
    "numbers",
    "parse_plain_yaml",
    "usable_device",
]
