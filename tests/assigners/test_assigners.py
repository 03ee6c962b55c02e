"""What holds for every assigner of the grid: building by name, images without objects, no gradient, fixed shapes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from detkit.assigners import AssignContext, build_assigner
from detkit.config import get_cfg
from detkit.geometry import Grid, Priors, square_anchors
from tests.assigners.strategies import padded

NAMES = ["FCOSAssigner", "ATSSAssigner", "IoUAssigner"]
STRIDES = (8, 16, 32, 64, 128)


def context_of(boxes_per_image, valid_sizes=None):
    sizes = tuple((max(96 // s, 1), max(128 // s, 1)) for s in STRIDES)
    priors = Priors(Grid(sizes, STRIDES, 0.5, torch.device("cpu")), square_anchors(STRIDES))
    return AssignContext(padded([np.array(b, np.float32).reshape(-1, 4) for b in boxes_per_image]), priors, valid_sizes=valid_sizes)


@pytest.fixture(params=NAMES)
def assigner(request):
    return build_assigner(request.param, get_cfg(), key="MODEL.FCOS.ASSIGNER")


def test_images_without_objects(assigner):
    for boxes in ([[]], [[], []]):
        result = assigner(context_of(boxes))
        assert result.gt_index.shape == (len(boxes), 16 * 12 + 8 * 6 + 4 * 3 + 2 + 1)
        assert (result.gt_index == -1).all()
        assert result.ignore is None or not result.ignore.any()


def test_an_image_is_labeled_the_same_in_any_batch(assigner):
    images = [[], [[10, 20, 60, 70], [30, 30, 50, 90]], [[0, 0, 120, 90]]]
    batched = assigner(context_of(images)).gt_index
    for image, boxes in enumerate(images):
        assert assigner(context_of([boxes])).gt_index[0].equal(batched[image])
    assert (batched[1] >= 0).any() and (batched[2] >= 0).any()


def test_an_object_on_plain_ground_gets_priors(assigner):
    result = assigner(context_of([[[16, 16, 64, 64]]]))
    assert result.gt_index.dtype == torch.int64
    assert (result.gt_index == 0).sum() >= 1


def test_cells_beyond_the_image_are_ignored(assigner):
    sizes = [[max(48 // s, 1), max(128 // s, 1)] for s in STRIDES]
    result = assigner(context_of([[[16, 30, 64, 90]]], torch.tensor([sizes])))
    beyond = torch.cat(
        [(torch.arange(max(96 // s, 1)) >= rows).repeat_interleave(max(128 // s, 1)) for s, (rows, _) in zip(STRIDES, sizes, strict=True)]
    )
    assert result.ignore[0, beyond].all()
    assert (result.gt_index[0, beyond] == -1).all()


def test_no_gradient(assigner):
    context = context_of([[[16, 16, 64, 64]]])
    context.gt.boxes.requires_grad_()
    assert not assigner(context).gt_index.requires_grad


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")
def test_compiles_without_graph_breaks(assigner):
    """One graph, so nothing waits for a value on the device, after what the host decides. The eager call fills the grid's cached properties
    first."""
    context = context_of([[[16, 16, 64, 64]], [[10, 20, 60, 70], [30, 30, 50, 90]]])
    expected = assigner(context)
    context = replace(context, ahead=assigner.ahead(context))
    compiled = torch.compile(assigner, fullgraph=True, backend="eager")
    assert compiled(context).gt_index.equal(expected.gt_index)
