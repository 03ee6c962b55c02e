import json
import logging
from pathlib import Path

import torch
from detectron2.modeling import build_model

from detkit.engine.evaluate import _log_results, evaluate
from detkit.evaluation import DETECTIONS_FILE


def test_what_cannot_be_measured_is_not_shown_as_numbers(caplog):
    nan = float("nan")
    with caplog.at_level(logging.INFO, logger="detkit"):
        logging.getLogger("detkit").propagate = True
        _log_results("custom_val", {"bbox": {"AP": nan, "AP50": nan}, "segm": {"AP": 12.5, "APs": nan}})
    assert set(caplog.messages) == {"custom_val, segm: AP 12.50  APs nan"}


def test_multi_scale_testing_stands_beside_single_scale(cfg):
    cfg.MODEL.ATSS.TEST.SCORE_THRESH = 0.001
    aug = ["ENABLED", True, "MIN_SIZES", (64,), "FLIP", False, "MERGE_THRESH", 1.0]
    cfg.merge_from_list([f"TEST.AUG.{word}" if i % 2 == 0 else word for i, word in enumerate(aug)])
    torch.manual_seed(0)
    model = build_model(cfg)
    (results,) = evaluate(cfg, model).values()
    assert set(results) == {"bbox", "bbox_TTA"} and model.training
    # the images have the size of the only scale, and nothing is merged
    plain, merged = (Path(cfg.OUTPUT_DIR) / folder / "toy" / DETECTIONS_FILE for folder in ("inference", "inference_TTA"))
    assert json.loads(merged.read_text()) == json.loads(plain.read_text()) != []
    assert set(next(iter(evaluate(cfg, model, multi_scale=False).values()))) == {"bbox"}
