"""What a changed config means for a run that is resumed, key by key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from detectron2.config import CfgNode

from detkit.config import flatten, parse_plain_yaml

__all__ = ["Change", "changes_since", "check_run_state", "optimizer_state_for", "parameter_names", "why_not_resumed"]

_CONTINUED = "the weights of the checkpoint are continued; start without --resume to use others"
#: what a resumed run does not apply, by the ends of the keys, and why
_NOT_APPLIED = {
    "SEED": "the order of the images and all randomness continue as they were",
    **dict.fromkeys(("MODEL.WEIGHTS", "BACKBONE.WEIGHTS", "HEAD.PRIOR_PROB", "HEAD.BOX_BIAS", "SPARSE_RCNN.PROPOSAL_INIT"), _CONTINUED),
}
_SAYS_NOTHING = {"OUTPUT_DIR", "VERSION"}


class Change(NamedTuple):
    """A key whose value is another than that of the checkpoint's run."""

    key: str
    old: Any
    new: Any

    @property
    def applies(self) -> bool:
        """Whether the new value counts from here on."""
        return not self.key.endswith(tuple(_NOT_APPLIED))

    def __str__(self) -> str:
        what = f"{self.key} changed from {self.old!r} to {self.new!r}"
        reasons = [reason for end, reason in _NOT_APPLIED.items() if self.key.endswith(end)]
        return f"{what}: does not apply, {reasons[0]}." if reasons else f"{what}: applies from here on."


def check_run_state(state: Mapping[str, Any]) -> None:
    """Checks that a checkpoint holds what a run left in it.

    Raises:
        ValueError: it has weights alone, or an entry is nothing that a run writes.
    """
    optional: dict[str, Any] = {"config": str, "run": str, "parameters": list, "trained_model": Mapping, "ema": Mapping, "hooks": Mapping}
    needed: dict[str, Any] = {"model": Mapping, "optimizer": Mapping, "grad_scaler": Mapping, "iteration": int, "seed": int}
    for key, kind in {**needed, **optional}.items():
        value = state.get(key)
        if value is None and key in needed:
            raise ValueError(
                f"The checkpoint holds no '{key}', so a run cannot be resumed from it: it has weights alone. Start without --resume, with "
                "MODEL.WEIGHTS naming it."
            )
        if value is not None and (not isinstance(value, kind) or (key == "iteration" and value < 0)):
            raise ValueError(f"The checkpoint cannot be resumed from: its '{key}' is {value!r}, which no run writes. Take another one.")


def changes_since(saved: str | None, cfg: CfgNode) -> list[Change]:
    """The keys that differ from the config that a checkpoint holds.

    Args:
        saved: that config as yaml; None where the checkpoint, of an older version, has none: nothing is known then.
        cfg: the config of the run that resumes.
    """
    if saved is None:
        return []
    old, new = (dict(flatten(parse_plain_yaml(text))) for text in (saved, cfg.dump()))
    known = sorted((old.keys() & new.keys()) - _SAYS_NOTHING)
    return [Change(key, old[key], new[key]) for key in known if old[key] != new[key]]


def parameter_names(model_parameters: Iterable[tuple[str, Any]], param_groups: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the parameters in the order in which the optimizer's state numbers them."""
    names = {id(parameter): name for name, parameter in model_parameters}
    return [names[id(parameter)] for group in param_groups for parameter in group["params"]]


def optimizer_state_for(fresh: Mapping[str, Any], saved: Mapping[str, Any], names: list[str], saved_names: list[str]) -> dict[str, Any]:
    """The saved state of every parameter (momentum, ...) with the learning rates, decays and groups of a fresh optimizer.

    Args:
        fresh: ``state_dict`` of the optimizer that the config asks for.
        saved: that of the checkpoint.
        names, saved_names: of their parameters, see :func:`parameter_names`. A parameter that was frozen before starts without state.
    """
    place = {name: index for index, name in enumerate(names)}
    state = {place[saved_names[index]]: value for index, value in saved["state"].items() if saved_names[index] in place}
    return {"state": state, "param_groups": fresh["param_groups"]}


def why_not_resumed(error: Exception, changes: Iterable[Change]) -> str:
    """The message where a checkpoint does not fit the model or optimizer of the config."""
    changed = "; ".join(f"{change.key} was {change.old!r} and is {change.new!r}" for change in changes if change.applies)
    return (
        f"The checkpoint does not belong to this config, so it cannot be resumed: {str(error).splitlines()[0]}. "
        f"{f'Changed keys: {changed}. ' if changed else ''}Set them back, or start without --resume, with MODEL.WEIGHTS naming the "
        "checkpoint, to take over its weights only."
    )
