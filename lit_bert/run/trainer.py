"""The Trainer of a command: with this project's callbacks, logger and checkpoints beside what was asked for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, LearningRateMonitor, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from lit_bert.run import ranks, run_dir
from lit_bert.run.checkpoint_io import AtomicCheckpointIO
from lit_bert.run.rooms import import_if_present
from lit_bert.run.start import Start


def make_bare_trainer(options: Namespace) -> Trainer:
    """Return a Trainer that predicts on the devices that `--trainer` names, and does nothing else."""
    names = ("accelerator", "devices", "num_nodes", "precision", "default_root_dir")
    bare = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")
    return Trainer(**{name: options[name] for name in names}, **dict.fromkeys(bare, False))  # type: ignore[arg-type]


def make_trainer(settings: Namespace, start: Start, folder: Path, config: str, **kwargs: Any) -> Trainer:
    """Return the Trainer of a command; `config` is the text of its settings for the run's folder."""
    fit, checkpoint, options = start.command == "fit", start.checkpoint, dict(settings.trainer)
    bare = options["barebones"]
    callbacks = _as_list(options["callbacks"])
    if checkpoint:  # what these found is in the run's config
        callbacks = [item for item in callbacks if not isinstance(item, LearningRateFinder | BatchSizeFinder)]
    if options["enable_checkpointing"] is not False and not bare:
        settings.checkpoint.dirpath = str(settings.checkpoint.dirpath or folder / run_dir.CHECKPOINTS)
        callbacks.insert(0, settings.checkpoint)  # Lightning takes the first for the one that knows the best
    tensorboard = import_if_present("callbacks.tensorboard")
    others = [] if options["logger"] is True else _as_list(options["logger"])
    beside = options["logger"] in (None, True) or isinstance(options["logger"], list)  # as --trainer.logger+= makes it
    if beside and not bare and not any(isinstance(item, TensorBoardLogger) for item in others):
        # Points that were logged after the checkpoint was written are hidden, because they are logged again.
        hidden = checkpoint.global_step if checkpoint else None
        kind = tensorboard.ScalarLogger if tensorboard else TensorBoardLogger
        logger = kind(folder, name="", version="", default_hp_metric=False, purge_step=hidden)
        options["logger"] = [logger, *others] if fit else others or False
    callbacks += own_callbacks(settings, callbacks, fit, folder, config, logs=bool(options["logger"]) and not bare)
    options["callbacks"] = callbacks
    options["plugins"] = [*_as_list(options["plugins"]), AtomicCheckpointIO()]
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        # Lightning's own requeueing would save elsewhere; `PreemptionCheckpoint` does it.
        options["plugins"].append(SLURMEnvironment(auto_requeue=False))
    trainer = Trainer(**{**options, **kwargs})
    ranks.check_launched_processes(trainer.world_size)
    return trainer


def own_callbacks(
    settings: Namespace, given: list[Callback], fit: bool, folder: Path, config: str, logs: bool
) -> Iterator[Callback]:
    """Yield this project's callbacks beside those `given`; to leave one out, delete its lines here, or its file."""
    options = settings.trainer
    real = not options.barebones and not options.fast_dev_run
    recorder = None
    if room := import_if_present("callbacks.row_recorder"):
        yield (recorder := room.RowRecorder())
    if room := import_if_present("callbacks.progress"):
        yield room.RunSummary()
        has_bar = options.enable_progress_bar is False or any(isinstance(item, ProgressBar) for item in given)
        if not has_bar and not options.barebones:
            yield room.ProgressBar()
    if real and options.enable_checkpointing is not False and (room := import_if_present("callbacks.preemption")):
        yield room.PreemptionCheckpoint(Path(settings.checkpoint.dirpath) / run_dir.LAST, settings.checkpoint_minutes)
    if not fit:
        return
    if room := import_if_present("callbacks.finite_guard"):
        yield room.FiniteGuard()
    if room := import_if_present("callbacks.throughput"):
        yield room.Throughput()
    if logs and not any(isinstance(item, LearningRateMonitor) for item in given):
        yield LearningRateMonitor()
    if logs and (room := import_if_present("callbacks.tensorboard")):
        yield room.TensorBoardCallback(recorder)
    if (room := import_if_present("callbacks.cuda_graphs")) and settings.model.hparams.get("cuda_graphs"):
        yield room.CudaGraphs()
    distilled = settings.get("distillation")
    if (room := import_if_present("callbacks.distillation")) and (distilled.teacher or distilled.unlabelled):
        yield room.Distillation(**distilled.as_dict())
    if (room := import_if_present("callbacks.run_record")) and real:
        yield room.RunRecord(folder / run_dir.CONFIG, config, folder / run_dir.PROVENANCE)
    if (room := import_if_present("callbacks.label_review")) and real:
        yield room.LabelReview(folder / run_dir.LABELS)


def _as_list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
