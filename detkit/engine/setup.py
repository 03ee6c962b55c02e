"""From the command line to a config in which nothing is left open."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Collection

from detectron2.config import CfgNode
from detectron2.utils import comm

from detkit.config import ConfigError, Section, check_config, get_cfg, usable_device
from detkit.data import check_data_keys
from detkit.distributed import usable_processors
from detkit.engine.batch_scaling import scale_to_batch
from detkit.engine.seeding import fresh_seed

__all__ = ["check_engine_keys", "read_config", "resolve_config"]

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
    check_config(cfg)
    return cfg


def check_engine_keys(cfg: CfgNode) -> None:
    """Checks all keys by the table of their ranges, and what those of engine, mappers and Detectron2's solver have to do with each other.

    Raises:
        ConfigError: a value that cannot be, or a key that nothing here reads.
    """
    check_data_keys(cfg)
    solver = Section(cfg, "SOLVER")
    if solver.REFERENCE_WORLD_SIZE:
        raise solver.refusal(
            "REFERENCE_WORLD_SIZE",
            "0: it would change the batch with the number of processes. Give the batch as SOLVER.IMS_PER_BATCH and the one that the "
            "learning rate is meant for as SOLVER.REFERENCE_BATCH_SIZE",
        )
    if cfg.VIS_PERIOD:
        raise ConfigError(f"VIS_PERIOD is {cfg.VIS_PERIOD}, but no detector here draws while it trains. Leave it at 0.")
    for key in ("MODEL.LOAD_PROPOSALS", "DATASETS.PROPOSAL_FILES_TRAIN", "DATASETS.PROPOSAL_FILES_TEST"):
        section, name = key.split(".")
        if cfg[section][name]:
            raise ConfigError(
                f"{key} is {cfg[section][name]!r}. Proposals from files are not used: Detectron2 reads them with pickle, which runs code "
                "that a file contains. Leave it out, and train a proposal generator (MODEL.PROPOSAL_GENERATOR.NAME)."
            )


def resolve_config(cfg: CfgNode, *, given: Collection[str] = ()) -> CfgNode:
    """A frozen copy of a config in which nothing is left open; a resolved config stays as it is.

    - ``MODEL.DEVICE``: the CPU where there is no CUDA.
    - ``SEED``: drawn, the same in all workers, where it is negative.
    - ``DATALOADER.NUM_WORKERS``: at most one per CPU.
    - Learning rate and schedule: see :func:`detkit.engine.batch_scaling.scale_to_batch`.

    Args:
        given: keys from the command line, whose values are not scaled.

    Raises:
        ConfigError: see :func:`check_engine_keys`.
    """
    check_engine_keys(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = usable_device(cfg.MODEL.DEVICE)
    if cfg.SEED < 0:
        cfg.SEED = comm.all_gather(fresh_seed())[0]
    cfg.DATALOADER.NUM_WORKERS = min(cfg.DATALOADER.NUM_WORKERS, usable_processors())
    scale_to_batch(cfg, keep=given)
    cfg.freeze()
    return cfg
