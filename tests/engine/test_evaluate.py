import logging

from detkit.engine.evaluate import _log_results


def test_finding_nothing_is_said_and_not_shown_as_numbers(caplog):
    nan = float("nan")
    with caplog.at_level(logging.INFO, logger="detkit"):
        logging.getLogger("detkit").propagate = True
        _log_results("custom_val", {"bbox": {"AP": nan, "AP50": nan}})
        _log_results("custom_val", {"bbox": {"AP": 12.5, "APs": nan}})
    assert "not a single detection" in caplog.messages[0] and "SCORE_THRESH" in caplog.messages[0]
    assert caplog.messages[1:] == ["custom_val, bbox: AP 12.50  APs nan"]
