"""What exported programs get in place of our own operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["EXPORT_FORMS", "ExportForm", "export_as"]


@dataclass(frozen=True)
class ExportForm:
    """Two programs that give what an operator gives.

    Attributes:
        plain: of PyTorch's and torchvision's operators, with the arguments of the operator; what ``torch.export`` writes.
        onnx: of ONNX' operators, for ``custom_translation_table`` of ``torch.onnx.export``.
    """

    plain: Callable[..., Any]
    onnx: Callable[..., Any]


#: by overload of the operator, ``torch.ops.detkit.nms_mask.default`` for instance
EXPORT_FORMS: dict[Any, ExportForm] = {}


def export_as(operator: Any, *, plain: Callable[..., Any], onnx: Callable[..., Any]) -> None:
    """Says how an operator of our own is exported; :mod:`detkit.export` does it."""
    EXPORT_FORMS[operator] = ExportForm(plain, onnx)
