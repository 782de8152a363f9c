"""The Trainer of a command: with this project's callbacks, logger and checkpoints beside what was asked for."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ProgressBar

from lit_bert.callbacks import progress
from lit_bert.callbacks.label_review import LabelReview
from lit_bert.callbacks.loggers import ScalarLogger
from lit_bert.callbacks.preemption import PreemptionCheckpoint
from lit_bert.callbacks.run_record import RunRecord
from lit_bert.callbacks.tensorboard import TensorBoardCallback
from lit_bert.callbacks.throughput import Throughput
from lit_bert.files import next_free_path
from lit_bert.modeling.checkpoint import Checkpoint
from lit_bert.run import ranks, run_dir
from lit_bert.run.checkpoint_io import AtomicCheckpointIO


def make_trainer(
    settings: Any, fit: bool, folder: Path, config: str, checkpoint: Checkpoint | None, **kwargs: Any
) -> Trainer:
    """Return the Trainer.

    Args:
        settings: Of the command: `trainer`, `checkpoint` (a ModelCheckpoint), `checkpoint_minutes`, and of `fit`
            `distillation`.
        fit: Whether it is to train.
        folder: The run's folder.
        config: The settings as the run's config file has them.
        checkpoint: What it starts from, if anything.
        kwargs: More of the Trainer's arguments.
    """
    options = dict(settings.trainer)
    bare = options["barebones"]
    real = not bare and not options["fast_dev_run"]
    callbacks = _as_list(options["callbacks"])
    if checkpoint:  # what these found is in the run's config
        callbacks = [item for item in callbacks if not isinstance(item, LearningRateFinder | BatchSizeFinder)]
    has_bar = any(isinstance(item, ProgressBar) for item in callbacks)
    callbacks += [progress.RunSummary(), Throughput(), TensorBoardCallback()]
    if options["enable_progress_bar"] is not False and not has_bar and not bare:
        callbacks.append(progress.ProgressBar())
    if fit and real:
        files = [next_free_path(folder / name) for name in (run_dir.CONFIG, run_dir.PROVENANCE)]
        callbacks += [RunRecord(files[0], config, files[1]), LabelReview(folder / run_dir.LABELS)]
    if fit and settings.distillation.teachers:
        callbacks.append(settings.distillation)
    if options["enable_checkpointing"] is not False and not bare:
        saved = Path(settings.checkpoint.dirpath or folder / run_dir.CHECKPOINTS)
        settings.checkpoint.dirpath = str(saved)
        callbacks.insert(0, settings.checkpoint)  # Lightning takes the first for the one that knows the best
        if real:
            callbacks.append(PreemptionCheckpoint(saved / run_dir.LAST, settings.checkpoint_minutes))
    if options["logger"] in (None, True) and not bare:
        # Of what was logged after the checkpoint, nothing is to be seen: it comes again.
        after: Any = {"purge_step": checkpoint.global_step} if checkpoint else {}
        logger = ScalarLogger(folder, name="", version="", default_hp_metric=False, **after)
        options["logger"] = logger if fit else False
    options["callbacks"] = callbacks
    options["plugins"] = [*_as_list(options["plugins"]), AtomicCheckpointIO()]
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        # Lightning's own requeueing would save elsewhere; `PreemptionCheckpoint` does it.
        options["plugins"].append(SLURMEnvironment(auto_requeue=False))
    trainer = Trainer(**{**options, **kwargs})
    ranks.check_launched_processes(trainer.world_size)
    return trainer


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
