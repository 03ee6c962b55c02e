"""The published weights whose architecture the project has: one table, and models by name."""

from .table import OWN_SOURCE, ZooEntry, ZooError, available, entries, find, of_file
from .zoo import SCHEME, get, get_checkpoint_url, get_config, get_config_file, made_file, weights_of

__all__ = [
    "OWN_SOURCE",
    "SCHEME",
    "ZooEntry",
    "ZooError",
    "available",
    "entries",
    "find",
    "get",
    "get_checkpoint_url",
    "get_config",
    "get_config_file",
    "made_file",
    "of_file",
    "weights_of",
]
