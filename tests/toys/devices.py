"""Training steps on devices that are not there: what they would wait for, and how many operations they would launch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from detkit.assigners import Pairs, hungarian, poto, windows
from detkit.host import remember
from lsnet import reading
from tests.toys.launches import Launches


@contextlib.contextmanager
def no_tables_kept() -> Iterator[None]:
    """Forgets tables of indices on devices that are not there."""
    kept = (windows.level_table, windows.rank_pairs, reading.reading_table)
    try:
        for table in kept:
            table.cache_clear()
        yield
    finally:
        for table in kept:
            table.cache_clear()


def without_preprocessing(model: nn.Module, data: list[dict[str, Any]], make: Callable[..., Tensor]) -> None:
    """Detectron2 reads sizes where it pads images: the model gets images (of one size) that are padded already."""
    sizes = [tuple(item["image"].shape[1:]) for item in data]
    images = ImageList(make((len(data), *data[0]["image"].shape)), sizes)
    model.preprocess_image = lambda batched_inputs: images  # type: ignore[assignment]


def matched_by_hand(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Matching, which reads all costs at once, gives nothing; returned are the shapes of what it would have read, call by call."""
    read: list[tuple[int, ...]] = []

    def match(costs: Tensor, valid: Tensor) -> Tensor:
        read.append(tuple(costs.shape))
        return torch.full(costs.shape[:2], -1, device=costs.device)

    def match_pairs(quality: Tensor, pairs: Pairs, num_images: int) -> Tensor:
        read.append(tuple(quality.shape))
        return torch.zeros(quality.shape, dtype=torch.bool, device=quality.device)

    monkeypatch.setattr(hungarian, "match", match)
    monkeypatch.setattr(poto, "match_pairs", match_pairs)
    return read


class NoBlockingCopies(TorchDispatchMode):
    """Refuses copies from the host that wait for what a GPU has to do before: all that are not said to be non-blocking."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._schema.name
        if name == "aten::_to_copy":
            source, target, free = args[0], kwargs.get("device"), kwargs.get("non_blocking", False)
        elif name == "aten::copy_":
            source, target, free = args[1], args[0].device, len(args) > 2 and args[2]
        else:
            return func(*args, **kwargs)
        if source.device.type == "cpu" and target is not None and target.type == "cuda" and not free and source.numel() > 0:
            raise AssertionError(f"{tuple(source.shape)} numbers of {source.dtype} are copied to the GPU, and waited for.")
        return func(*args, **kwargs)


@contextlib.contextmanager
def fake_gpu(model: nn.Module, data: list[dict[str, Any]]) -> Iterator[None]:
    """Within it the model lies on a GPU of fake tensors, where it is an error to read a value or to mix devices."""
    for item in data:  # what lies on the host is known there, though fake tensors do not tell
        instances = item["instances"]
        for given in (instances.gt_boxes.tensor, *(value for value in instances.get_fields().values() if isinstance(value, Tensor))):
            remember(given, given.numpy())
    with no_tables_kept(), FakeTensorMode(allow_non_fake_inputs=True), NoBlockingCopies():
        make = partial(torch.empty, device="cuda")
        for module in model.modules():
            for name, p in module._parameters.items():
                module._parameters[name] = p if p is None else nn.Parameter(make(p.shape, dtype=p.dtype), p.requires_grad)
            for name, b in module._buffers.items():
                module._buffers[name] = b if b is None else make(b.shape, dtype=b.dtype)
        without_preprocessing(model, data, make)
        yield


def on_fake_gpu(cfg: Any, data: list[dict[str, Any]], *, train: bool) -> Any:
    """What a detector gives there."""
    model = build_model(cfg).train(train)
    with fake_gpu(model, data):
        return model(data)


def launches_of_step(cfg: Any, data: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How many operations a training step launches: forward with the losses, and backward. Nothing is computed.

    On the device "meta", which has shapes alone and takes the ways of a GPU, backward too. It is the second step that counts.
    """
    autocast = torch.autocast
    monkeypatch.setattr(
        torch, "autocast", lambda kind, *args, **others: contextlib.nullcontext() if kind == "meta" else autocast(kind, *args, **others)
    )
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", _fused_attention)
    cfg.MODEL.DEVICE = "meta"
    with no_tables_kept(), torch.device("meta"):
        model = build_model(cfg).train()
        without_preprocessing(model, data, torch.empty)
    with no_tables_kept():
        sum(model(data).values()).backward()
        model.zero_grad(set_to_none=True)
        with Launches() as forward:
            losses = model(data)
        total = torch.stack(list(losses.values())).sum()
        with Launches() as backward:
            total.backward()
    return forward.total, backward.total


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0) -> Tensor:
    """What GPUs run: one kernel forward, one backward."""
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, attn_mask, True, dropout_p)[0]
