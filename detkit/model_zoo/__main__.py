"""Prints the page of the model zoo: ``python -m detkit.model_zoo > MODEL_ZOO.md``."""

from .page import render

print(render(), end="")
