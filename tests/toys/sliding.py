"""A detector that knows the objects and misses them by a learned shift: its AP is a falling function of one weight."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, BoxMode, Instances
from torch import Tensor, nn

#: pixels, where the training would end
TARGET = 8.0


@META_ARCH_REGISTRY.register()
class Sliding(nn.Module):
    """Learns to shift its boxes by :data:`TARGET` pixels, from 0 on: the further it is trained, the worse its AP.

    ``draws`` are the random numbers of its training steps.
    """

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.head.weight)
        self.objects = {record["image_id"]: record for record in DatasetCatalog.get(cfg.DATASETS.TEST[0])}
        self.draws: list[float] = []
        self.seen: list[tuple[int, int]] = []

    @property
    def shift(self) -> float:
        return float(self.head.weight)

    def forward(self, inputs: list[dict[str, Any]]) -> Any:
        if self.training:
            if torch.is_grad_enabled():  # else the trainer looks at weights that it is about to save
                self.draws.append(float(torch.rand(())))
            return {"loss_shift": (self.head.weight - TARGET).square().sum() / 2}
        self.seen += [tuple(item["image"].shape[1:]) for item in inputs]
        return [{"instances": self._detect(item)} for item in inputs]

    def _detect(self, item: dict[str, Any]) -> Instances:
        annotations = self.objects[item["image_id"]]["annotations"]
        boxes: Tensor = torch.tensor([BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]).view(-1, 4)
        found = Instances((item["height"], item["width"]))
        found.pred_boxes = Boxes(boxes + self.head.weight.detach().squeeze() * torch.tensor([1.0, 0.0, 1.0, 0.0]))
        found.scores = torch.ones(len(boxes))
        found.pred_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
        return found


def sliding_cfg(cfg: Any) -> Any:
    """Turns the toy config into one of this detector: the weight goes a tenth of the way at every step."""
    cfg.MODEL.META_ARCHITECTURE = "Sliding"
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.STEPS, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY = 0.1, 0, (), 0.0, 0.0
    return cfg
