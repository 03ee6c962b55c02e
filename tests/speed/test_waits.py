"""Nothing in a training step reads a value of the device, which would wait for all that is launched. Proven without a device: tensors on a
fake one have shapes alone, so that reading a value, or a shape that depends on values, is an error."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from detkit.host import on_host, send
from tests.toys.detectors import random_inputs, tiny_cfg, tiny_sparse_cfg
from tests.toys.devices import matched_by_hand, on_fake_gpu


def cfg_of(name):
    if name == "SparseRCNN":
        return tiny_sparse_cfg()
    method, _, assigner = name.partition(" ")
    cfg = tiny_cfg(method)
    if assigner:
        cfg.MODEL[method].ASSIGNER = assigner
    return cfg


@pytest.mark.parametrize("ignore_padding", [False, True])
@pytest.mark.parametrize("name", ["FCOS", "ATSS", "DW", "DW AutoAssignAssigner", "DW MuSuAssigner"])
def test_a_training_step_reads_nothing(name, ignore_padding):
    cfg = cfg_of(name)
    cfg.MODEL[name.split()[0]].IGNORE_PADDING = ignore_padding
    losses = on_fake_gpu(cfg, random_inputs(), train=True)
    assert losses and all(loss.device.type == "cuda" and loss.shape == () for loss in losses.values())


def test_sparse_rcnn_reads_the_costs_of_all_stages_at_once_and_nothing_else(monkeypatch):
    read = matched_by_hand(monkeypatch)
    losses = on_fake_gpu(cfg_of("SparseRCNN"), random_inputs(), train=True)
    assert read == [(2 * 2, 12, 3)] and len(losses) == 6


def test_a_value_that_is_read_would_be_noticed(monkeypatch):
    from detkit.assigners import FCOSAssigner

    forward = FCOSAssigner.forward
    for read in (lambda gt: int(gt.valid.sum()), lambda gt: gt.classes[gt.valid]):
        monkeypatch.setattr(FCOSAssigner, "forward", lambda self, context, read=read: (read(context.gt), forward(self, context))[1])
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            on_fake_gpu(cfg_of("FCOS"), random_inputs(), train=True)


def test_what_was_sent_is_known_on_the_host_until_it_changes():
    tensor = send(torch.arange(3.0).numpy(), "meta")
    assert on_host(tensor).tolist() == [0, 1, 2]
    tensor += 1
    with pytest.raises(NotImplementedError):  # values of a tensor without data are gone
        on_host(tensor)
    here = send(torch.arange(3.0).numpy(), "cpu")
    here += 1
    assert on_host(here).tolist() == [1, 2, 3]
