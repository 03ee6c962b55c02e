"""Training and evaluation: trainer, optimizer, moving average, hooks, launcher, console, record of the run."""

from detkit.engine.console import quiet_dependencies

quiet_dependencies()  # before Detectron2 is imported, whose import alone warns

# ruff: noqa: E402
from detkit.engine.divergence import NonFiniteWeightsError
from detkit.engine.evaluate import Results, check_expected_results, evaluate, save_results
from detkit.engine.launch import launch
from detkit.engine.main import main, run
from detkit.engine.optimizer import build_gradient_clipper, build_optimizer
from detkit.engine.prepare import prepare_for_inference, prepare_for_training
from detkit.engine.setup import read_config, resolve_config
from detkit.engine.step import NonFiniteGradientError, NonFiniteLossError, TrainingStep
from detkit.engine.trainer import Trainer

__all__ = [
    "NonFiniteGradientError",
    "NonFiniteLossError",
    "NonFiniteWeightsError",
    "Results",
    "Trainer",
    "TrainingStep",
    "build_gradient_clipper",
    "build_optimizer",
    "check_expected_results",
    "evaluate",
    "launch",
    "main",
    "prepare_for_inference",
    "prepare_for_training",
    "quiet_dependencies",
    "read_config",
    "resolve_config",
    "run",
    "save_results",
]
