"""Exported files of the tiny detectors."""

from __future__ import annotations

from pathlib import Path

import pytest

from detkit.export import ExportSettings, export_detector, metadata_of
from tests.export.test_program import CONFIGS, detector


def needs(*packages: str) -> None:
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed: pip install onnx onnxscript onnxruntime")


def write(name: str, path: Path, settings: ExportSettings | None = None, **options) -> Path:
    model, settings = detector(name), settings or ExportSettings()
    cfg = CONFIGS[name]()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 160, 320
    metadata = metadata_of(cfg, model, settings, ["cat", "dog", "bird"], name)
    agreement = export_detector(model, path, settings=settings, metadata=metadata, **options)
    assert agreement.raw or agreement.detections > 30
    assert agreement.unmatched == 0 and agreement.box < 0.01
    return path
