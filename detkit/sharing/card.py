"""The card of a shared model: what it finds, how well, and how it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from detkit import __version__
from detkit.config import method_node

from .model import SharedModel

__all__ = ["CARD_FILE", "card_of"]

#: as the hub calls it
CARD_FILE = "README.md"
_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_TASKS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
#: classes that the card lists
_SHOWN_CLASSES = 100


def card_of(model: SharedModel, *, name: str, half: bool, licence: str | None) -> str:
    """The text of the card, with the hub's metadata above it."""
    count = sum(value.numel() for value in model.weights.values())
    sections = [
        f"---\n{yaml.safe_dump(_front_matter(model, name, licence), sort_keys=False, allow_unicode=True)}---",
        f"# {name}",
        f"A detector of the architecture {model.cfg.MODEL.META_ARCHITECTURE} with {count / 1e6:.2f} million weights"
        f"{' in 16 bits' if half else ''}, trained with detkit {__version__}. {_input(model)}",
        "## Use",
        f'```python\nimport detkit\n\npredictor = detkit.Predictor.from_hub("<user>/{name}")  # or the path of this folder\n'
        'instances = predictor("photo.jpg")\ninstances.draw().save("detections.jpg")\n```',
        "`model.safetensors` holds the weights, `config.yaml` the whole config and the names of the classes; nothing here runs code.",
        "## Classes",
        _classes(model),
        "## Measured",
        _results(model, half),
        "## License",
        f"{licence}." if licence else "Who shares this model has named no license for its weights.",
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(model: SharedModel, name: str, licence: str | None) -> dict[str, Any]:
    matter: dict[str, Any] = {"license": licence} if licence else {}
    matter |= {"library_name": "detkit", "pipeline_tag": "object-detection", "tags": ["detectron2", "object-detection", "detkit"]}
    index = [
        {
            "task": {"type": "object-detection"},
            "dataset": {"name": dataset, "type": dataset},
            "metrics": [
                {"type": "AP", "name": f"{_TASKS.get(task, task)} AP", "value": round(metrics["AP"], 2)}
                for task, metrics in tasks.items()
                if _is_number(metrics.get("AP"))
            ],
        }
        for dataset, tasks in model.results.items()
    ]
    index = [entry for entry in index if entry["metrics"]]
    return matter | ({"model-index": [{"name": name, "results": index}]} if index else {})


def _input(model: SharedModel) -> str:
    images = model.cfg.INPUT
    if not images.MIN_SIZE_TEST:
        return f"Images enter it in their own size, in the order {images.FORMAT}."
    return (
        f"Images enter it in the order {images.FORMAT}, with a shorter side of {images.MIN_SIZE_TEST} pixels and a longer one of at most "
        f"{images.MAX_SIZE_TEST}."
    )


def _classes(model: SharedModel) -> str:
    node = method_node(model.cfg)
    total = node.NUM_CLASSES if "NUM_CLASSES" in node else len(model.class_names)
    shown = ", ".join(model.class_names[:_SHOWN_CLASSES]) + (", ..." if len(model.class_names) > _SHOWN_CLASSES else "")
    return f"{total}: {shown}." if model.class_names else f"{total}, of which no names are known."


def _results(model: SharedModel, half: bool) -> str:
    measured: dict[tuple[str, ...], list[str]] = {}
    for dataset, tasks in model.results.items():
        for task, metrics in tasks.items():
            names = _columns(metrics)
            cells = " | ".join(_figure(metrics.get(name)) for name in names)
            measured.setdefault(names, []).append(f"| {dataset} | {_TASKS.get(task, task)} | {cells} |")
    if not measured:
        return "The average precision of these weights was not measured."
    remarks = [f"{key}: `{value}`" for key, value in model.origin.items() if value]
    if half:
        remarks.append("The numbers were measured before the weights were rounded to 16 bits.")
    return "\n\n".join([*(_table(names, rows) for names, rows in measured.items()), "  \n".join(remarks)]).rstrip()


def _columns(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """COCO's six, or what else a dataset is measured by (CrowdHuman: AP, mMR, recall, JI), without single classes."""
    return _METRICS if "AP50" in metrics else tuple(name for name in metrics if not name.startswith("AP-"))


def _table(names: Sequence[str], rows: Sequence[str]) -> str:
    whose = "COCO's average precision" if names == _METRICS else "as the dataset's own benchmark defines it"
    return "\n".join([f"| dataset | task | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}", *rows, "", f"In percent, {whose}."])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _figure(value: Any) -> str:
    return f"{value:.1f}" if _is_number(value) else "-"
