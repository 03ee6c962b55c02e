"""Heads that several methods share."""

from .dense_head import DenseHead, DenseOutputs

__all__ = ["DenseHead", "DenseOutputs"]
