"""From the command line to a config that says what will really be done."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Collection

from detectron2.config import CfgNode
from detectron2.utils import comm

from detkit.config import get_cfg, usable_device
from detkit.distributed import usable_processors
from detkit.engine.batch_scaling import scale_to_batch
from detkit.engine.seeding import fresh_seed

__all__ = ["read_config", "resolve_config"]

logger = logging.getLogger(__name__)


def read_config(args: argparse.Namespace) -> CfgNode:
    """The config that a command line of Detectron2's ``default_argument_parser`` asks for.

    Raises:
        detkit.config.ConfigError: a file, key or value that cannot be used.
    """
    cfg = get_cfg()
    if args.config_file:
        cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts or [])
    return cfg


def resolve_config(cfg: CfgNode, *, given: Collection[str] = ()) -> CfgNode:
    """A frozen copy of a config in which nothing is left open; a resolved config stays as it is.

    - ``MODEL.DEVICE``: the CPU where there is no CUDA.
    - ``SEED``: drawn, the same in all workers, where it is negative.
    - ``DATALOADER.NUM_WORKERS``: at most one per CPU.
    - Learning rate and schedule: see :func:`detkit.engine.batch_scaling.scale_to_batch`.

    Args:
        given: keys from the command line, whose values are not scaled.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = usable_device(cfg.MODEL.DEVICE)
    if cfg.SEED < 0:
        cfg.SEED = comm.all_gather(fresh_seed())[0]
    cfg.DATALOADER.NUM_WORKERS = min(cfg.DATALOADER.NUM_WORKERS, usable_processors())
    scale_to_batch(cfg, keep=given)
    cfg.freeze()
    return cfg
