from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from matplotlib.colors import to_rgb

from detkit.assigners import AssignContext, Assigner, SoftAssignment
from detkit.structures import HardAssignment
from detkit.visualization import assignment_pictures
from detkit.visualization.style import CATEGORICAL
from tests.toys.detectors import LEVELS, random_inputs, tiny_cfg


class PickTwo(Assigner):
    """Gives location 0 of the finest level to object 1 and the first of the coarsest level to object 0."""

    def forward(self, context: AssignContext) -> HardAssignment:
        assert context.priors is not None
        gt_index = torch.full((len(context.gt.valid), context.priors.num_priors), -1)
        gt_index[:, 0] = 1
        gt_index[:, context.priors.grid.level_starts[2]] = 0
        return HardAssignment(gt_index)


class PickTwoSoftly(PickTwo):
    needs_predictions = True

    def forward(self, context: AssignContext) -> SoftAssignment:
        assert context.predictions is not None
        return SoftAssignment.from_hard(super().forward(context), context.gt, context.predictions)


@pytest.mark.parametrize("assigner", [PickTwo(), PickTwoSoftly()])
def test_points_lie_where_the_assigner_picks(assigner: Assigner) -> None:
    model = build_model(tiny_cfg("FCOS"))
    model.assigner = assigner
    inputs = random_inputs(1)
    inputs[0]["image"] = torch.zeros_like(inputs[0]["image"])
    inputs[0]["instances"].gt_boxes.tensor[:] = torch.tensor([60.0, 60.0, 90.0, 90.0])
    (picture,) = assignment_pictures(model, inputs)
    assert picture.level_names == LEVELS
    assert picture.per_level == (1, 0, 1)
    assert picture.per_object == (1, 1, 0)
    scale = picture.by_object.shape[1] / 128
    fine, coarse = (round(4 * scale), round(4 * scale)), (round(16 * scale), round(16 * scale))

    def color(number: int) -> list[int]:
        return [round(255 * value) for value in to_rgb(CATEGORICAL[number])]

    assert picture.by_object[fine].tolist() == color(1)
    assert picture.by_object[coarse].tolist() == color(0)
    assert picture.by_level[fine].tolist() == color(0)
    assert picture.by_level[coarse].tolist() == color(2)


@pytest.mark.parametrize("method", ["FCOS", "ATSS"])
def test_counts_are_those_of_the_model(method: str) -> None:
    model = build_model(tiny_cfg(method)).train()
    inputs = random_inputs(2)
    pictures = assignment_pictures(model, inputs)
    assert model.training
    images = model.preprocess_image(inputs)
    sizes = [(images.tensor.shape[2] // stride, images.tensor.shape[3] // stride) for stride in model.prior_generator.strides]
    gt = model.ground_truth([x["instances"] for x in inputs])
    expected = model.pipeline.assign(model.prior_generator(sizes), gt, None, images.image_sizes).gt_index
    for picture, index in zip(pictures, expected, strict=True):
        assert picture.per_object == tuple(torch.bincount(index[index >= 0], minlength=3).tolist())
        assert sum(picture.per_level) == sum(picture.per_object)


def test_image_without_objects() -> None:
    (picture,) = assignment_pictures(build_model(tiny_cfg("FCOS")), random_inputs(1, num_boxes=0))
    assert picture.per_object == ()
    assert sum(picture.per_level) == 0


def test_channel_order() -> None:
    model = build_model(tiny_cfg("FCOS"))
    inputs = random_inputs(1, num_boxes=0)
    inputs[0]["image"] = torch.zeros(3, 96, 128, dtype=torch.uint8)
    inputs[0]["image"][0] = 200
    (bgr,), (rgb,) = assignment_pictures(model, inputs), assignment_pictures(model, inputs, channels="RGB")
    assert bgr.by_object[50, 50].tolist() == [round(0.114 * 200)] * 3  # the weight of blue in ITU-R BT.601
    assert rgb.by_object[50, 50].tolist() == [round(0.299 * 200)] * 3
    with pytest.raises(ValueError, match="YUV"):
        assignment_pictures(model, inputs, channels="YUV-BT.601")
