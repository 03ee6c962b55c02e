"""Boxes that candidates vote on, against a slow loop."""

from __future__ import annotations

import math

import torch
from torch.testing import assert_close
from torchvision.ops import box_iou

from detkit.layers import voted_boxes


def test_voted_boxes() -> None:
    corners = torch.rand(2, 40, 2) * 40
    voters = torch.cat([corners, corners + 10 + 20 * torch.rand(2, 40, 2)], dim=-1)
    scores, classes = torch.rand(2, 40) - 0.2, torch.randint(0, 3, (2, 40))
    boxes, kinds = voters[:, :6].clone(), classes[:, :6].clone()
    kinds[1, 5] = -1  # not there
    found = voted_boxes(boxes, kinds, voters, scores, classes, 0.025)
    for i in range(2):
        overlaps = box_iou(boxes[i], voters[i])
        for d in range(6):
            total, mean = 0.0, torch.zeros(4)
            for m in range(40):
                if scores[i, m] >= 0 and classes[i, m] == kinds[i, d] and overlaps[d, m] > 0.01:
                    weight = float(scores[i, m]) * math.exp(-((1 - float(overlaps[d, m])) ** 2) / 0.025)
                    total, mean = total + weight, mean + weight * voters[i, m]
            assert_close(found[i, d], mean / total if total else boxes[i, d], rtol=1e-4, atol=1e-3)
