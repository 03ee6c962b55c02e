"""The evaluator of detections in COCO's format."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import _evaluate_box_proposals, instances_to_coco_json
from detectron2.utils import comm
from pycocotools.coco import COCO

from detkit.data import DataError, class_names, id_order, is_published, most_objects, read_coco_json, without_images

from .coco import MOST_DETECTIONS, CocoEvaluation, Task
from .files import DETECTIONS_FILE, EvaluationError, coco_of, write_unreadable
from .numbering import NumberedGroundTruth

__all__ = ["DetectionEvaluator", "detection_limit"]

logger = logging.getLogger(__name__)

#: metrics of an evaluation that has nothing to measure
_METRICS: dict[Task, tuple[str, ...]] = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
}
_FIELDS: dict[Task, str] = {"bbox": "bbox", "keypoints": "keypoints", "segm": "segmentation"}


class DetectionEvaluator(DatasetEvaluator):
    """COCO's AP of boxes, masks and keypoints, whichever the model predicts, and the recall of proposals.

    It differs from Detectron2's ``COCOEvaluator`` in that ids may be any numbers and texts, that annotations are not parsed again, that
    objects without a mask or keypoints are no error, and that what a missing AP means is said (:attr:`remarks`).

    Args:
        dataset_name: a registered dataset.
        output_dir: for the detections, with the ids of the annotation file; None: they are not saved.
        keypoint_sigmas: one per keypoint, ``cfg.TEST.KEYPOINT_OKS_SIGMAS``; empty: COCO's 17.
        detections_per_image: how many the model gives at most, ``cfg.TEST.DETECTIONS_PER_IMAGE``, see :func:`detection_limit`.

    Attributes:
        remarks: of the last evaluation, what the numbers alone do not say.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        output_dir: str | os.PathLike[str] | None = None,
        keypoint_sigmas: Sequence[float] = (),
        detections_per_image: int = 100,
    ) -> None:
        self._name = dataset_name
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._sigmas = tuple(keypoint_sigmas)
        self._per_image = detections_per_image
        self.remarks: list[str] = []
        self.reset()

    def reset(self) -> None:
        self._predictions: list[dict[str, Any]] = []
        self._left_out: set[Any] = set()

    def leave_out(self, image_ids: Sequence[Any]) -> None:
        """These images do not count, since they could not be read."""
        self._left_out |= set(image_ids)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for item, output in zip(inputs, outputs, strict=True):
            prediction: dict[str, Any] = {"image_id": item["image_id"]}
            if "instances" in output:
                prediction["instances"] = instances_to_coco_json(output["instances"].to("cpu"), item["image_id"])
            if "proposals" in output:
                prediction["proposals"] = output["proposals"].to("cpu")
            if len(prediction) > 1:
                self._predictions.append(prediction)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """``{"bbox": {"AP": ..., "AP50": ..., "AP-<class>": ...}, ...}`` in percent on the first worker, empty on the others.

        Empty too where the dataset has no annotations: its detections are saved. All are NaN where nothing was detected.

        Raises:
            EvaluationError: the annotations cannot be used, or the keypoints are not as many as the sigmas.
        """
        comm.synchronize()
        gathered = comm.gather((self._predictions, self._left_out), dst=0)
        if not comm.is_main_process():
            return {}
        predictions = list(itertools.chain.from_iterable(part for part, _ in gathered))
        left_out = set().union(*(part for _, part in gathered))
        self.remarks = [f"images that could not be read and do not count: {len(left_out)}."] if left_out else []
        content = without_images(self._ground_truth(), left_out)
        detections = self._detections(predictions, content)
        if self._output_dir is not None:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            (self._output_dir / DETECTIONS_FILE).write_text(json.dumps(detections), encoding="utf-8")
            write_unreadable(self._output_dir, left_out)
        if "annotations" not in content:
            self.remarks.append("detections saved; there are no annotations to compare them with.")
            return {}
        if not predictions:
            self.remarks.append("no image was evaluated.")
            return {}
        results = {}
        if "proposals" in predictions[0]:
            results["box_proposals"] = _proposal_recall(content, predictions)
        if "instances" in predictions[0]:
            ground_truth = coco_of(content)
            tasks = [task for task, field in _FIELDS.items() if task == "bbox" or any(field in detection for detection in detections)]
            results |= {task: self._measure(ground_truth, detections, task) for task in tasks}
        return results

    def _ground_truth(self) -> dict[str, Any]:
        json_file = MetadataCatalog.get(self._name).get("json_file")
        try:
            if json_file is not None:
                return read_coco_json(json_file)
            if self._output_dir is None:
                raise EvaluationError(f"{self._name} has no annotation file: give an output_dir in which one can be written.")
            json_file = self._output_dir / f"{self._name}_coco_format.json"
            convert_to_coco_json(self._name, str(json_file), allow_cached=False)
            return read_coco_json(json_file)
        except DataError as error:
            raise EvaluationError(str(error)) from error

    def _detections(self, predictions: list[dict[str, Any]], content: dict[str, Any]) -> list[dict[str, Any]]:
        """All detections, with the categories of the annotation file for the classes of the model.

        A model may have more classes than the dataset; what it finds of those cannot be compared.
        """
        categories = [category["id"] for category in sorted(content["categories"], key=id_order)]
        detections = list(itertools.chain.from_iterable(prediction.get("instances", ()) for prediction in predictions))
        known = [{**each, "category_id": categories[each["category_id"]]} for each in detections if each["category_id"] < len(categories)]
        if len(known) < len(detections):
            self.remarks.append(
                f"the model has more classes than the {len(categories)} of the dataset: {len(detections) - len(known)} of "
                f"{len(detections)} detections are of the others and left out."
            )
        return known

    def _measure(self, ground_truth: COCO, detections: list[dict[str, Any]], task: Task) -> dict[str, float]:
        annotations = ground_truth.dataset["annotations"]
        reason = _nothing_to_find(annotations, task)
        if reason or not detections:
            words = reason or "not a single detection passed the score threshold. Train longer, lower the threshold "
            self.remarks.append(f"{task}: there is no AP, since {words}" + ("." if reason else _THRESHOLD_HINT))
            return dict.fromkeys(_METRICS[task], float("nan"))
        limit = detection_limit(self._name, annotations, self._per_image, task)
        evaluation = CocoEvaluation(ground_truth, detections, task=task, keypoint_sigmas=self._sigmas, max_detections=limit)
        precision = evaluation.average_precision
        self._remark_on_limits(evaluation, annotations, task)
        if task == "segm" and evaluation.numbered.num_outlines:
            self.remarks.append(f"segm: {evaluation.numbered.num_outlines} objects without a mask count with the outline of their box.")
        results = precision.table()
        names = class_names(ground_truth.dataset["categories"])
        if len(names) > 1:
            results |= {f"AP-{name}": precision.ap(class_name=name) for name in names}
        return results

    def _remark_on_limits(self, evaluation: CocoEvaluation, annotations: list[dict[str, Any]], task: Task) -> None:
        most, usual = most_objects(annotations, of_one_class=True), MOST_DETECTIONS[task]
        if is_published(self._name) or most <= usual:
            return
        limit = evaluation.max_detections
        if limit > usual:
            at_usual, at_limit = (evaluation.at_limit(number).ap() for number in (usual, limit))
            self.remarks.append(
                f"{task}: an image has {most} objects of one class, so {limit} detections of an image count "
                f"(TEST.DETECTIONS_PER_IMAGE): AP {at_limit:.2f}. With COCO's limit of {usual} it is {at_usual:.2f}."
            )
        if limit < most:
            self.remarks.append(
                f"{task}: an image has {most} objects of one class, but only {limit} detections of an image count, so that not all can be "
                f"found. Set TEST.DETECTIONS_PER_IMAGE {most}."
            )


_THRESHOLD_HINT = "(MODEL.<METHOD>.TEST.SCORE_THRESH), or see 'AP 0' in docs/troubleshooting.md."


def detection_limit(dataset_name: str, annotations: Sequence[dict[str, Any]], detections_per_image: int, task: Task) -> int:
    """How many detections of a class in an image count: COCO's number, or the model's where an image of own data has more objects.

    Args:
        detections_per_image: how many the model gives at most.
    """
    usual = MOST_DETECTIONS[task]
    if is_published(dataset_name) or most_objects(annotations, of_one_class=True) <= usual:
        return usual
    return max(usual, detections_per_image)


def _nothing_to_find(annotations: Sequence[dict[str, Any]], task: Task) -> str:
    """Why no object can be found, or "" where one can."""
    objects = [annotation for annotation in annotations if not annotation.get("iscrowd")]
    if not annotations:
        return "the annotations hold no objects to compare with"
    if not objects:
        return f"all {len(annotations)} annotations are crowds ('iscrowd' 1), on which detections do not count"
    if task == "keypoints" and not any(annotation.get("num_keypoints") for annotation in objects):
        return f"none of the {len(objects)} objects has a labeled keypoint"
    if not any(0 <= annotation.get("area", 0) <= 1e10 for annotation in objects):
        return f"the 'area' of all {len(objects)} objects is beyond the 100000 x 100000 pixels that COCO's evaluation looks at"
    return ""


def _proposal_recall(content: dict[str, Any], predictions: list[dict[str, Any]]) -> dict[str, float]:
    """Average recall (AR) in percent of the best 100 and 1000 proposals of an image, for all objects and by their size."""
    numbered = NumberedGroundTruth.of(content, "bbox")
    numbers = {name: number for number, name in enumerate(numbered.image_ids, start=1)}
    proposals = [{"image_id": numbers[each["image_id"]], "proposals": each["proposals"]} for each in predictions]
    return {
        f"AR{suffix}@{limit}": float(_evaluate_box_proposals(proposals, numbered.coco, area=area, limit=limit)["ar"].item() * 100)
        for limit in (100, 1000)
        for area, suffix in {"all": "", "small": "s", "medium": "m", "large": "l"}.items()
    }
