import pytest
import torch
from detectron2.modeling import build_model
from torch.testing import assert_close

from detkit import analysis
from detkit.analysis.dual_weights import formula_rows, plot_negative_probability
from tests.toys.detectors import random_inputs, tiny_cfg


def maps_of(assigner, inputs, gt_index=0):
    cfg = tiny_cfg("DW")
    cfg.MODEL.DW.ASSIGNER = assigner
    torch.manual_seed(0)
    model = build_model(cfg)
    return model, analysis.weight_maps(model, inputs, gt_index=gt_index)


@pytest.mark.parametrize("assigner", ["DWAssigner", "GFLAssigner", "ATSSAssigner", "AutoAssignAssigner"])
def test_maps_have_the_pyramids_shapes_and_weights_only_where_candidates_are(assigner):
    (inputs,) = random_inputs(1, num_boxes=2)
    _, maps = maps_of(assigner, inputs, gt_index=1)
    sizes = [(12, 16), (6, 8), (3, 4)]
    for levels in (maps.score, maps.iou, maps.positive, maps.negative):
        assert [tuple(level.shape) for level in levels] == sizes
        assert all(level.isfinite().all() and (level >= 0).all() for level in levels)
    assert maps.positive[maps.main_level].sum() > 0
    x0, y0, x1, y1 = inputs["instances"].gt_boxes.tensor[1].tolist()
    ys, xs = torch.meshgrid((torch.arange(12) + 0.5) * 8, (torch.arange(16) + 0.5) * 8, indexing="ij")
    outside = (xs < x0) | (xs > x1) | (ys < y0) | (ys > y1)
    assert not maps.positive[0][outside].any()


def test_weights_are_those_of_the_loss():
    """DW: the negative weight is P_neg * s ** 2 for candidates and s ** 2 elsewhere."""
    (inputs,) = random_inputs(1, num_boxes=1)
    _, maps = maps_of("DWAssigner", inputs)
    elsewhere = torch.cat([level.flatten() for level in maps.positive]) == 0
    score, negative = (torch.cat([level.flatten() for level in levels]) for levels in (maps.score, maps.negative))
    assert elsewhere.any() and not elsewhere.all()
    assert_close(negative[elsewhere], score[elsewhere] ** 2)
    assert (negative[~elsewhere] <= score[~elsewhere] ** 2 + 1e-6).all()


def test_figures_are_drawn(tmp_path):
    (inputs,) = random_inputs(1, num_boxes=2)
    maps = {name: maps_of(f"{name}Assigner", inputs)[1] for name in ("DW", "VFL")}
    image = inputs["image"].permute(1, 2, 0).numpy()
    figure = analysis.plot_weight_maps(maps, image, inputs["instances"].gt_boxes.tensor[0], (8, 16, 32))
    assert len(figure.axes) == 8 and figure.axes[0].get_title().startswith("DW: score")
    analysis.save_figure(figure, tmp_path / "maps.png")
    curves = plot_negative_probability()
    xs, ys = curves.axes[0].lines[1].get_data()
    assert_close(torch.as_tensor(ys), ((0.95**2 - torch.as_tensor(xs) ** 2) / (0.95**2 - 0.5**2)).clamp(0, 1), rtol=1e-4, atol=1e-5)
    assert min(curves.axes[1].lines[0].get_ydata()) == pytest.approx(0, abs=1e-5)  # 0 for the best candidate
    analysis.save_figure(curves, tmp_path / "curves.png")
    assert (tmp_path / "maps.png").stat().st_size > 0 and (tmp_path / "curves.png").stat().st_size > 0


def test_rows_of_the_formulas():
    rows = formula_rows(scores=(0.5,), ious=(0.4, 0.7, 0.95))
    assert rows["s 0.5, IoU 0.4"]["P_neg, paper"] == rows["s 0.5, IoU 0.4"]["P_neg, code"] == 1
    assert rows["s 0.5, IoU 0.95"]["P_neg, paper"] == pytest.approx(0, abs=1e-5) and rows["s 0.5, IoU 0.95"]["P_neg, code"] > 0.1
    assert rows["s 0.5, IoU 0.7"]["w_neg, paper"] == pytest.approx(0.25 * rows["s 0.5, IoU 0.7"]["P_neg, paper"])
    assert rows["sum of w_pos"]["w_pos %, paper"] == pytest.approx(1) and rows["sum of w_pos"]["w_pos %, code"] > 1


def test_an_object_that_is_not_there():
    (inputs,) = random_inputs(1, num_boxes=2)
    with pytest.raises(ValueError, match="2 objects: there is no number 2"):
        maps_of("DWAssigner", inputs, gt_index=2)
