"""What a resumed run takes over from its checkpoint, and which changes of the config it applies."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier

from detkit.config import ConfigError, flatten

__all__ = ["apply_solver", "changes_since", "keep_what_began"]

logger = logging.getLogger(__name__)

#: keys that only a beginning training reads, by their ends: a resumed run keeps what it began with
_AT_BEGINNING = ("MODEL.WEIGHTS", "MODEL.BACKBONE.WEIGHTS", "HEAD.PRIOR_PROB", "HEAD.BOX_BIAS", "PROPOSAL_INIT")
#: keys that say where a run is computed, and the seed, which the trainer takes over by itself
_SURROUNDINGS = ("SEED", "OUTPUT_DIR", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS")


def changes_since(state: Mapping[str, Any], cfg: CfgNode) -> dict[str, tuple[Any, Any]]:
    """The keys of a config that differ from that of a checkpoint, with the former and the new value.

    Args:
        state: of the checkpoint; it holds the config as text, or, written by an early version, does not: then nothing differs.
    """
    former = dict(flatten(yaml.safe_load(state.get("config", "")) or {}))
    return {key: (former[key], value) for key, value in flatten(cfg) if key in former and _plain(former[key]) != _plain(value)}


def keep_what_began(state: Mapping[str, Any], cfg: CfgNode) -> None:
    """Says of every changed key whether it applies, and gives those that only a beginning training reads their former values.

    Args:
        state: of the checkpoint.
        cfg: changed in place.

    Raises:
        ConfigError: another ``SOLVER.OPTIMIZER``, which cannot go on from the state of the former one.
    """
    cfg.defrost()
    for key, (former, new) in changes_since(state, cfg).items():
        if key == "SOLVER.OPTIMIZER":
            raise ConfigError(
                f"SOLVER.OPTIMIZER is {new!r}, but the checkpoint holds the state of {former!r}. Resume with that, or start without "
                "--resume, with MODEL.WEIGHTS naming the checkpoint."
            )
        if key.endswith(_AT_BEGINNING):
            cfg.merge_from_list([key, former])
            logger.warning("%s %r is not applied: a resumed run keeps %r.", key, new, former)
        elif key not in _SURROUNDINGS:
            logger.info("%s: %r instead of %r from iteration %d on.", key, new, former, state["iteration"] + 1)
    cfg.freeze()


def apply_solver(optimizer: torch.optim.Optimizer, scheduler: Any, options: list[dict[str, Any]]) -> None:
    """Gives an optimizer that has loaded its former state the learning rates, weight decays and so on of the present config.

    Args:
        options: of its parameter groups, as they were built, without parameters.
        scheduler: it has loaded its former state.
    """
    for group, built in zip(optimizer.param_groups, options, strict=True):
        group.update({name: value for name, value in built.items() if name != "lr"})
    if not isinstance(scheduler, LRMultiplier):  # one of your own: its own state counts
        return
    scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    for group, lr in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
        group["lr"] = lr


def _plain(value: Any) -> Any:
    """Tuples as lists, for yaml has no tuples."""
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
