"""Prints the page of the model zoo: ``python -m detkit.model_zoo > MODEL_ZOO.md``."""

from .page import render

if __name__ == "__main__":
    print(render(), end="")
