"""The trainer: Detectron2's loop and hooks around a training step that can be stopped and continued anywhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import uuid
from collections.abc import Iterator
from functools import cached_property
from typing import NoReturn

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase, hooks
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.solver import build_lr_scheduler
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.utils.data import DataLoader

from detkit.backbones import check_backbone
from detkit.checkpoint import CheckpointFolder
from detkit.config import Section, check_config, load_method_packages
from detkit.data import build_train_mapper, write_copies
from detkit.distributed import data_parallel, get_rank, get_world_size
from detkit.engine.console import open_log_file, setup_logging
from detkit.engine.data_loader import TrainLoader, build_train_loader
from detkit.engine.ema import WeightAverage
from detkit.engine.evaluate import Results, build_test_loader, check_expected_results, evaluate, keeping_loaders, save_results
from detkit.engine.hooks import Evaluation, PeriodicCheckpoint, Settling, StopOnRequest
from detkit.engine.optimizer import build_gradient_clipper, build_optimizer
from detkit.engine.peers import set_rescue
from detkit.engine.prepare import prepare_for_training, training_dtype
from detkit.engine.resumable import ResumableTrainer
from detkit.engine.room import checkpoint_size, number_of_checkpoints
from detkit.engine.run_folder import check_room, folder_in_use
from detkit.engine.run_record import save_run_record
from detkit.engine.seeding import seed_everything
from detkit.engine.setup import resolve_config
from detkit.engine.step import StepReport, TrainingStep
from detkit.engine.stopping import StopRequest
from detkit.engine.whole_state import WholeState
from detkit.engine.writers import PERIOD, MetricFiles, ProgressBar

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)


class Trainer(ResumableTrainer):
    """Trains, evaluates and saves what a config describes.

    Override the ``build_*`` methods to train something else, or add hooks with ``register_hooks``::

        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        results = trainer.train()

    A checkpoint holds under ``model`` the weights to use: the moving average where ``SOLVER.EMA`` is enabled; the weights being trained
    are then its ``trained_model``.

    Args:
        cfg: a config from :func:`detkit.config.get_cfg`, with its data registered, for instance by
            :func:`detkit.data.prepare_datasets`. The trainer's own ``cfg`` is it with device, seed and schedule resolved.
    """

    iter: int  # the iteration at hand, or the number of iterations when all are done

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        if not logger.hasHandlers():  # used from Python
            setup_logging(cfg.OUTPUT_DIR, get_rank())
        self.cfg = cfg = resolve_config(cfg)
        seed_everything(cfg.SEED)
        self.model = prepare_for_training(cfg, self.build_model(cfg))
        self.optimizer = self.build_optimizer(cfg, self.model)
        self.scheduler = self.build_lr_scheduler(cfg, self.optimizer)
        self.ema = WeightAverage(self.model, cfg.SOLVER.EMA.DECAY) if cfg.SOLVER.EMA.ENABLED else None
        self.training_step = TrainingStep(
            model=data_parallel(self.model),
            optimizer=self.optimizer,
            parts=cfg.SOLVER.ACCUMULATE,
            amp_dtype=training_dtype(cfg),
            clip=build_gradient_clipper(cfg),
        )
        self.checkpoints = CheckpointFolder(cfg.OUTPUT_DIR, keep=cfg.SOLVER.CHECKPOINT_KEEP)
        self.run_id = uuid.uuid4().hex
        self.changes = []
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.stop_request, self.stop_agreed = StopRequest(), False
        self.whole_state = WholeState(self.model)
        self._kept_test_loader = keeping_loaders(self.build_test_loader)
        self.results: Results = {}
        self.register_hooks(self.build_hooks())

    # what is trained -------------------------------------------------------------------------------------------------------------

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model on its device."""
        load_method_packages()  # in a started process the config has come by pickle, and nothing is registered yet
        check_config(cfg)
        if torch.device(cfg.MODEL.DEVICE).type == "meta":
            raise Section(cfg, "MODEL").refusal("DEVICE", "a device that is here: weights on 'meta' have no numbers")
        check_backbone(cfg)
        Section(cfg, "MODEL").check({"META_ARCHITECTURE": [name for name, _ in META_ARCH_REGISTRY]})
        model = build_model(cfg)
        logger.debug("Model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """See :func:`detkit.engine.optimizer.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """Detectron2's schedules: multi-step, cosine, each with warm-up. Steps that are never reached are left out."""
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.STEPS = tuple(step for step in cfg.SOLVER.STEPS if step < cfg.SOLVER.MAX_ITER)
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        """See :func:`detkit.engine.data_loader.build_train_loader`."""
        return build_train_loader(cfg, build_train_mapper(cfg))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        """Detectron2's loader of a test set, with our reader of images."""
        return build_test_loader(cfg, dataset_name)

    def build_hooks(self) -> list[HookBase]:
        """In the order in which they run after a step; the checkpoint is written when the rest of the iteration is done."""
        cfg = self.cfg
        built: list[HookBase] = [hooks.IterationTimer(), hooks.LRScheduler()]
        if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model):
            data = self.build_train_loader(cfg)
            built.append(hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, data, cfg.TEST.PRECISE_BN.NUM_ITER))
        built += [PeriodicCheckpoint(cfg.SOLVER.CHECKPOINT_PERIOD), StopOnRequest(), Evaluation(cfg.TEST.EVAL_PERIOD), Settling(PERIOD)]
        if comm.is_main_process():
            built.append(MetricFiles(cfg.OUTPUT_DIR))
            if sys.stdout.isatty():
                built.append(ProgressBar())
        return built

    @cached_property
    def data_loader(self) -> TrainLoader:
        """The training data; made when it is first needed, for its order depends on the seed, which a resumed run inherits."""
        return self.build_train_loader(self.cfg)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes of the training data, as far as they are known."""
        names = self.cfg.DATASETS.TRAIN
        return list(MetadataCatalog.get(names[0]).get("thing_classes", [])) if names else []

    # training ----------------------------------------------------------------------------------------------------------------------

    def train(self) -> Results:
        """Trains from where :meth:`resume_or_load` has left it, evaluates, and writes ``results.json``.

        ``config.yaml`` and ``run.json`` are written first, when weights and data have been accepted.

        Returns:
            the results of the last evaluation, on the first worker.

        Raises:
            FloatingPointError: a loss (NonFiniteLossError), a gradient (NonFiniteGradientError) or what a loss is computed from
                (detkit.assigners.NonFiniteCostError) is NaN or infinite; ``model_nan_iter<n>.pth`` holds the weights that have led to it.
                Or the weights themselves are, or give such losses (NonFiniteWeightsError): they are not saved.
            SystemExit: the process was asked to stop, and a checkpoint was saved; ``TEST.EXPECTED_RESULTS`` were missed; or another worker
                ends the run.
            RunFolderError: another run is using the folder.
        """
        with folder_in_use(self.cfg.OUTPUT_DIR) if comm.is_main_process() else contextlib.nullcontext():
            return self._train()

    def _train(self) -> Results:
        self._batches = self.data_loader.from_iteration(self.start_iter)
        comm.synchronize()  # all have found their checkpoint before the record says whose the folder is
        open_log_file()
        if comm.is_main_process():
            self.checkpoints.remove_leftovers()
            size = checkpoint_size(self.cfg, self.model, self.optimizer)
            check_room(self.cfg.OUTPUT_DIR, size=size, count=number_of_checkpoints(self.cfg, start_iter=self.start_iter))
            write_copies()
            save_run_record(
                self.cfg,
                run=self.run_id,
                iteration=self.start_iter,
                classes=self.class_names,
                changes={change.key: [change.old, change.new] for change in self.changes if change.applies},
            )
        logger.info("Training from iteration %d to %d; everything goes to %s.", self.start_iter, self.max_iter, self.cfg.OUTPUT_DIR)
        self.whole_state.begin(self.start_iter - 1)
        set_rescue(self.rescue)
        with self.stop_request.listening():
            try:
                super().train(self.start_iter, self.max_iter)
            except Exception as error:
                self._save_what_is_whole(error)
                raise
        if comm.is_main_process():
            save_results(self.cfg, self.results, weights=str(self.checkpoints.final), iteration=self.max_iter)
            check_expected_results(self.cfg, self.results)
        return self.results

    def run_step(self) -> None:
        """One iteration. Its randomness depends on the seed, the worker and the iteration alone."""
        self.model.train()
        seed_everything(self.cfg.SEED, get_rank(), self.iter)
        with self._kept_for_inquiry():
            report = self.training_step(
                self._batches, iteration=self.iter, stop=bool(self.stop_request), before_update=self.whole_state.changing
            )
        if self.ema is not None:
            self.ema.update(self.model)
        self._take(report)

    def settle(self) -> None:
        """Waits for what the last step has found, where that is read late (see :class:`TrainingStep`). In every worker.

        Raises:
            FloatingPointError: as in :meth:`train`.
        """
        with self._kept_for_inquiry():
            report = self.training_step.settle()
        self._take(report)

    def _take(self, report: StepReport | None) -> None:
        if report is not None:
            self.stop_agreed = report.stop
            values = {"total_loss": sum(report.losses.values()), "data_time": report.data_time, **report.losses}
            self.storage.put_scalars(cur_iter=report.iteration, **values)

    @contextlib.contextmanager
    def _kept_for_inquiry(self) -> Iterator[None]:
        """Weights that have led to what is not finite are saved."""
        try:
            yield
        except FloatingPointError as error:
            self._save(f"model_nan_iter{getattr(error, 'iteration', self.iter):07d}", resumable=False)
            raise

    def after_train(self) -> None:
        """Runs the hooks' last part."""
        self.iter = min(self.iter, self.max_iter)  # Detectron2 counts one too many where a finished training is resumed
        super().after_train()

    def evaluate(self) -> Results:
        """Evaluates the weights to use on ``DATASETS.TEST``; by multi-scale testing, where it is enabled, only after training."""
        if self.iter < self.max_iter:  # else they were looked at when the last checkpoint was saved
            self._require_sound_weights()
        model = self.model if self.ema is None else self.ema.model
        self.results = evaluate(
            self.cfg,
            model,
            build_loader=self._kept_test_loader,
            before_batch=self._stop_if_alone,
            multi_scale=self.iter >= self.max_iter,
        )
        return self.results

    def stop(self) -> NoReturn:
        """Saves a checkpoint and ends the process. In every worker, between two iterations."""
        if self.iter < self.max_iter:
            self.save_checkpoint()
        comm.synchronize()
        logger.info("Asked to stop (%s): saved the state after iteration %d. Continue with --resume.", self.stop_request.name, self.iter)
        raise SystemExit(self.stop_request.exit_code)

    def _stop_if_alone(self) -> None:
        """An evaluation can be left at once, unless other workers would wait for this one."""
        if self.stop_request and get_world_size() == 1:
            self.stop()
