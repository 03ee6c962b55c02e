"""What a key map is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .template import fill, match

__all__ = ["KeyMap"]


@dataclass(frozen=True)
class KeyMap:
    """How the state-dict keys of one source of weights are called here. The first rule that fits a key counts.

    Attributes:
        name: of the source, for messages.
        rules: template of the source's key -> template of ours, see :mod:`detkit.checkpoint.key_maps.template`.
        ignore: templates of keys that carry nothing our models need.
        running_var_shift: added to ``running_var``: -1e-5 for codes whose frozen batch norm has no epsilon, as ours adds 1e-5.
        backbone_only: the source is a pretrained classifier; parts of it that our backbone lacks are left out, and the rest of our
            model keeps its initial weights.
        num_classes, class_rows: for a source with classes that nobody annotates: how many logits it has for each anchor, and which of
            them are our classes in our order. A model with as many classes as the source takes all.
    """

    name: str
    rules: Mapping[str, str]
    ignore: tuple[str, ...] = field(default=())
    running_var_shift: float = 0.0
    backbone_only: bool = False
    num_classes: int | None = None
    class_rows: tuple[int, ...] = ()

    def rename(self, key: str) -> str | None:
        """Our name of a source's key; None where no rule fits."""
        for source, ours in self.rules.items():
            values = match(source, key)
            if values is not None:
                return fill(ours, values)
        return None

    def ignores(self, key: str) -> bool:
        """Whether a key stands on the ignore list."""
        return any(match(template, key) is not None for template in self.ignore)
