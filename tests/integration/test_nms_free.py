"""What one-to-one assignment is for: detections need no suppression."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.integration.test_weightings import build, learn_by_heart
from tests.toys.batch import OBJECTS, average_precision, make_batch

PLAIN = ["MODEL.FCOS.HEAD.QUALITY", "none", "MODEL.FCOS.LOSS.BOX_WEIGHTING", "uniform"]
FILTER = ["MODEL.FCOS.HEAD.NAME", "MaxFilteringHead", "MODEL.FCOS.HEAD.QUALITY", "box", "MODEL.FCOS.LOSS.CRITERION", "weighted"]
FILTER += ["MODEL.FCOS.TEST.SCORE", "product", "MODEL.FCOS.TEST.THRESHOLD_ON", "product"]
AUXILIARY = ["MODEL.FCOS.AUXILIARY.ASSIGNER", "QualityATSSAssigner"]


def learned(assigner: str, *options: str) -> tuple[Any, list[float], int]:
    """A detector that has learned two images by heart; its AP with and without suppression, and how many boxes it is sure of without."""
    model, batch = build(assigner, "FCOS", *options), make_batch()
    learn_by_heart(model, batch, 150)
    found = []
    for threshold in (0.6, None):
        model.postprocessor.nms_thresh = threshold
        found.append(average_precision(model, batch))
    with torch.no_grad():
        sure = sum(int((each["instances"].scores > 0.3).sum()) for each in model(batch))
    return model, found, sure


@pytest.mark.parametrize(
    ("assigner", "options"),
    [("POTOAssigner", PLAIN), ("OneNetAssigner", PLAIN), ("POTOAssigner", PLAIN + AUXILIARY), ("POTOAssigner", FILTER + AUXILIARY)],
    ids=["POTO", "OneNet", "POTO, auxiliary", "POTO, max filtering, auxiliary"],
)
def test_one_to_one_detectors_are_as_good_without_suppression(assigner: str, options: list[str]) -> None:
    _, (suppressed, whole), sure = learned(assigner, *options)
    assert suppressed == whole > 95
    # labels of an auxiliary loss on the same score raise that of duplicates, which stay behind the best all the same
    assert sure == sum(map(len, OBJECTS)) or (options == PLAIN + AUXILIARY and sure < 2 * sum(map(len, OBJECTS)))


def test_others_are_not() -> None:
    _, (suppressed, whole), sure = learned("FCOSAssigner", *PLAIN)
    assert suppressed > 95 > whole
    assert sure > 2 * sum(map(len, OBJECTS))
