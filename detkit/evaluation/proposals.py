"""Recall of the proposals of an R-CNN, beside the AP of its detections."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import nn

__all__ = ["proposals_in_outputs"]


@contextlib.contextmanager
def proposals_in_outputs(model: nn.Module) -> Iterator[None]:
    """Within it a Detectron2 R-CNN gives its "proposals" along with its "instances", as Detectron2's ``ProposalNetwork`` does.

    So :class:`~detkit.evaluation.DetectionEvaluator` reports their average recall (AR@100, AR@1000) as the task ``box_proposals``. Other
    models stay as they are.
    """
    if not isinstance(model, GeneralizedRCNN) or model.proposal_generator is None:
        yield
        return
    last: list[list[Instances]] = []

    def remember(_generator: nn.Module, _inputs: Any, result: tuple[list[Instances], Any]) -> None:
        last[:] = [result[0]]

    def add(_model: nn.Module, inputs: tuple[list[dict]], outputs: list[dict]) -> list[dict]:
        return [
            output | {"proposals": _in_output_size(proposals, item)}
            for item, output, proposals in zip(inputs[0], outputs, last.pop(), strict=True)
        ]

    hooks = [model.proposal_generator.register_forward_hook(remember), model.register_forward_hook(add)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _in_output_size(proposals: Instances, item: dict[str, Any]) -> Instances:
    height, width = proposals.image_size
    return detector_postprocess(proposals, item.get("height", height), item.get("width", width))
