"""From the names in a config to Detectron2's catalog, where ``DefaultPredictor`` and the visualizers look for them."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES, KEYPOINT_CONNECTION_RULES

__all__ = ["name_classes_in_catalog"]

logger = logging.getLogger(__name__)


def name_classes_in_catalog(cfg: CfgNode) -> None:
    """Enters ``DATASETS.CLASS_NAMES`` and ``DATASETS.KEYPOINT_NAMES`` as the metadata of the sets in ``DATASETS.TEST`` that are not
    registered here, as those of a run that was trained elsewhere. Registered sets say themselves what their classes are; where that is
    something else, the log warns.
    """
    if not cfg.DATASETS.CLASS_NAMES:
        return
    names = [str(name) for name in cfg.DATASETS.CLASS_NAMES]
    for dataset in cfg.DATASETS.TEST:
        known = MetadataCatalog.get(dataset).get("thing_classes", names) if dataset in MetadataCatalog.list() else names
        if dataset not in DatasetCatalog.list():
            if dataset in MetadataCatalog.list():
                MetadataCatalog.remove(dataset)  # what an earlier config has entered; who holds that keeps it
            MetadataCatalog.get(dataset).set(thing_classes=names, **_keypoints([str(name) for name in cfg.DATASETS.KEYPOINT_NAMES]))
        elif list(known) != names:
            logger.warning(
                "%s is registered here with other classes (%s ...) than DATASETS.CLASS_NAMES (%s ...). Detectron2's DefaultPredictor and "
                "Visualizer will show the former; detkit.Predictor shows the latter.",
                dataset,
                ", ".join(list(known)[:3]),
                ", ".join(names[:3]),
            )


def _keypoints(names: list[str]) -> dict[str, Any]:
    if not names:
        return {}
    return {
        "keypoint_names": names,
        "keypoint_connection_rules": KEYPOINT_CONNECTION_RULES if names == list(COCO_PERSON_KEYPOINT_NAMES) else [],
    }
