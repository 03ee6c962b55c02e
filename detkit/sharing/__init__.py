"""Trained models to hand on: a folder of safetensors, resolved config with class names, and a card; on the Hugging Face Hub or anywhere."""

from .folder import SHARED_FILES, SHARED_WEIGHTS, read_shared_model, write_shared_model
from .hub import fetch_shared_model, push_shared_model
from .model import SharedModel
from .run import model_of_run

__all__ = [
    "SHARED_FILES",
    "SHARED_WEIGHTS",
    "SharedModel",
    "fetch_shared_model",
    "model_of_run",
    "push_shared_model",
    "read_shared_model",
    "write_shared_model",
]
