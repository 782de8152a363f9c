"""The command line: LightningCLI with this project's classes, links, defaults and subcommands."""

import signal
import sys
import time
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, LRSchedulerTypeTuple
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.optim import Optimizer

from lit_bert.console import silence_chatter, status
from lit_bert.data.readers import STDIN
from lit_bert.datamodule import TextClassificationDataModule
from lit_bert.errors import UserError, as_user_error, is_lost_rank, is_out_of_memory
from lit_bert.evaluation import finish, report
from lit_bert.evaluation.tensorboard import TensorBoardCallback
from lit_bert.files import atomic_write, display_path, next_free_path
from lit_bert.inference.export import export
from lit_bert.inference.predict import predict_split, predict_texts
from lit_bert.module import BertClassifier
from lit_bert.training import hardware, progress, ranks, run_dir
from lit_bert.training.checkpoint_io import AtomicCheckpointIO, Checkpoint
from lit_bert.training.memory import explain_out_of_memory
from lit_bert.training.parser import Parser
from lit_bert.training.preemption import Interrupted, PreemptionCheckpoint
from lit_bert.training.recipe import default_recipe
from lit_bert.training.resume import find_checkpoint
from lit_bert.training.run_record import RecordTuned, RunRecord
from lit_bert.training.throughput import Throughput

TRAINER_DEFAULTS = {
    "default_root_dir": "runs",
    "max_epochs": 3,
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}
SUBCOMMANDS = ("fit", "validate", "test", "predict")


def main(
    args: list[str] | None = None,
    model_class: type[LightningModule] = BertClassifier,
    datamodule_class: type[LightningDataModule] = TextClassificationDataModule,
) -> LightningCLI:
    """Run a command, such as `["fit", "--config", "configs/packaged.yaml"]`; None takes the process's arguments.

    Args:
        args: The arguments.
        model_class: `BertClassifier`, or a subclass of your own.
        datamodule_class: `TextClassificationDataModule`, or a subclass of your own.

    Returns:
        The CLI object, with `trainer`, `model`, `datamodule`, `config`, `run_dir`, and of a fit its `results`.

    Raises:
        SystemExit: With status 2 after a user's mistake, which has been explained on standard error; with 1 if another
            rank is gone; with 128 and the signal's number after a signal that stopped training.
    """
    silence_chatter()
    hardware.keep_freed_memory()
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    try:
        return BertCLI(args, model_class, datamodule_class)
    except Interrupted as stop:
        if rank == 0:
            name, path = signal.Signals(stop.signal_number).name, display_path(stop.checkpoint)
            sys.stderr.write(f"stopped by {name}; go on with\npython train.py fit --ckpt_path {path}\n")
        raise SystemExit(128 + stop.signal_number) from None
    except Exception as error:
        if is_lost_rank(error):
            line = str(error).partition("] ")[2].partition(". ")[0] or str(error).splitlines()[0]
            sys.stderr.write(f"error: rank {rank} lost another rank, whose message says why ({line})\n")
            raise SystemExit(1) from error
        explained = as_user_error(error)
        if explained is None:
            raise
        sys.stderr.write(f"error: {explained}\n")
        raise SystemExit(2) from error


class BertCLI(LightningCLI):
    """LightningCLI that keeps a folder for each run, resumes it, and says what came out of it.

    Args:
        args: Arguments, or None for the process's own.
        model_class: The module.
        datamodule_class: The data module.
    """

    def __init__(
        self, args: ArgsType, model_class: type[LightningModule], datamodule_class: type[LightningDataModule]
    ) -> None:
        self.checkpoint: Checkpoint | None = None
        self.results: dict[str, Any] = {}
        self.subparsers: dict[str, LightningArgumentParser] = {}
        self._ckpt_path: str | None = None
        self._recipe = "run"
        self._new_run_dir: Path | None = None
        self._config_path = Path(run_dir.CONFIG)
        self._lock: FileLock | None = None
        try:
            super().__init__(
                model_class,
                datamodule_class,
                args=args,
                parser_class=Parser,
                save_config_callback=None,  # it refuses to resume in a folder that has a config.yaml
                seed_everything_default=1,
                parser_kwargs={
                    "description": "Fine-tune, evaluate and use BERT for sentence classification.",
                    **{name: {"command": name} for name in SUBCOMMANDS},
                },
                trainer_defaults=TRAINER_DEFAULTS,
                auto_configure_optimizers=False,  # those have no decay groups, and step once an epoch
                load_from_checkpoint_support=False,  # checkpoints hold what __init__ got, and nothing that imports code
            )
        except BaseException as error:
            trainer = getattr(self, "trainer", None)
            if self._new_run_dir and (trainer is None or not trainer.global_step):
                run_dir.remove_if_empty(self._new_run_dir)
            if isinstance(error, Exception) and is_out_of_memory(error):
                raise explain_out_of_memory(self.datamodule, self.model is not None and self.model.training) from error
            raise
        finally:
            if self._lock:
                self._lock.release()

    # --- arguments ----------------------------------------------------------------------------------------------------

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Leave out arguments that only Python callers can use, and `weights_only`: it must stay on."""
        skip = {"weights_only", "verbose", "return_predictions"}
        return {name: arguments | skip for name, arguments in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: Parser) -> None:  # type: ignore[override]
        """Add what follows `fit`, checkpoints, optimizers, the options of `predict`, and the links."""
        self.subparsers[str(parser.command)] = parser
        for name, default, meaning in (
            ("test_after_fit", True, "Whether `fit` ends with a test of the best checkpoint."),
            ("export_after_fit", True, "Whether `fit` ends with a folder of the best checkpoint for transformers."),
            (
                "projector",
                False,
                "Whether `fit` ends with [CLS] vectors of validation rows in TensorBoard's projector.",
            ),
        ):
            parser.add_argument(f"--{name}", type=bool, default=default, help=meaning)
        parser.add_argument(
            "--checkpoint_minutes",
            type=float,
            default=5.0,
            help="Minutes between two checkpoints within an epoch; each epoch ends with one.",
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        defaults = {"monitor": "val/acc", "mode": "max", "auto_insert_metric_name": False}
        defaults["enable_version_counter"] = False  # a resumed run writes the same files again
        parser.set_defaults({f"checkpoint.{name}": value for name, value in defaults.items()})
        parser.add_optimizer_args((Optimizer,))
        parser.add_lr_scheduler_args(LRSchedulerTypeTuple)
        for name in ("optimizer", "lr_scheduler"):
            parser.link_arguments(name, f"model.{name}", lambda spec: spec and spec.as_dict())
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")
        parser.link_arguments("model.pretrained", "data.tokenizer")
        if parser.command == "predict":
            parser.add_argument(
                "--input",
                type=str | None,
                help="File of texts to predict in place of the data set's: .txt (one a line), .csv, .jsonl or .parquet "
                "(of these --data.text_column); - for lines of standard input.",
            )
            parser.add_argument(
                "--output",
                type=str | None,
                help="File for the predictions; - for standard output. By default it is in the run's folder, "
                "or, if --input is -, standard output.",
            )
            parser.add_argument(
                "--format",
                type=Literal["csv", "jsonl"] | None,
                help="Format of --output; null goes by its name, and is csv for standard output.",
            )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; with neither `--config` nor a checkpoint, take the default recipe.

        A checkpoint brings the config of its run if it lies in the run's folder, and else what is stored in it; options
        and config files beat both. LightningCLI lets the checkpoint win (Lightning-AI/pytorch-lightning#21455).
        """
        assert args is None or isinstance(args, list)
        arguments = list(sys.argv[1:] if args is None else args)
        given = parser.parse_args([word for word in arguments if not word.startswith("--print_config")])
        settings, subparser = given[given.subcommand], self.subparsers[given.subcommand]
        folder = Path(settings.ckpt_path or "").is_dir() and given.subcommand == "predict" and settings.input
        if given.subcommand == "predict" and settings.input is not None and not settings.ckpt_path:
            raise UserError(f"--input {settings.input}: give a checkpoint, or an exported folder, with --ckpt_path")
        if not folder:
            root = Path(settings.trainer.default_root_dir or "runs")
            self.checkpoint = find_checkpoint(settings.ckpt_path, given.subcommand, root)
        config = None
        if self.checkpoint:
            known = set(subparser.get_defaults(skip_validation=True).keys())
            stored = {f"model.{key}": value for key, value in self.checkpoint.hyper_parameters.items()}
            stored |= {f"data.{key}": value for key, value in self.checkpoint.data_hyper_parameters.items()}
            stored |= {key: stored.get(f"model.{key}") for key in ("optimizer", "lr_scheduler")}
            links = {"model.class_names", "data.tokenizer", "model.optimizer", "model.lr_scheduler"}
            subparser.set_defaults({key: stored[key] for key in stored.keys() & known - links})
            if run := run_dir.run_dir_of(self.checkpoint.path):
                config = run_dir.newest_config(run)
        elif not folder and not (settings.config or given.config):
            config, why = default_recipe()
            status("recipe", f"{config.name}: {why}; choose with --config configs/NAME.yaml", err=True)
        if not (settings.config or given.config) and config:
            subparser.default_config_files = [str(config)]
        self._recipe = Path(str(settings.config[-1])).stem if settings.config else config.stem if config else "run"
        self.config = parser.parse_args(arguments)
        self._ckpt_path = str(self.checkpoint.path) if self.checkpoint else settings.ckpt_path if folder else None
        self.config[given.subcommand].ckpt_path = None  # or LightningCLI would read the checkpoint, too

    # --- the run ------------------------------------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        """Fill in what depends on this machine, so that the saved config says what was done."""
        self.settings = self.config[self.subcommand]
        self.settings.ckpt_path = self._ckpt_path
        trainer, checkpoint = self.settings.trainer, self.settings.checkpoint
        ranks.join_launched_processes(trainer)
        if trainer.barebones:  # it refuses any value of these
            trainer.log_every_n_steps = trainer.num_sanity_val_steps = trainer.enable_model_summary = None
        if trainer.precision is None:
            trainer.precision = "bf16-mixed" if hardware.has_fast_bf16(trainer.accelerator) else "32-true"
        if checkpoint.filename is None:
            monitor = checkpoint.monitor
            score = f"-{monitor.replace('/', '_')}={{{monitor}:.4f}}" if monitor else ""
            often = trainer.val_check_interval not in (None, 1, 1.0) or checkpoint.every_n_train_steps
            step = "-step={step}" if often or checkpoint.train_time_interval else ""
            checkpoint.filename = f"epoch={{epoch}}{step}{score}"
        self.parser.add_instantiator(self._make_model, self._model_class, subclasses=True)
        self.parser.add_instantiator(self._make_data, self._datamodule_class, subclasses=True)

    def _make_model(self, class_type: type[LightningModule], *args: Any, **kwargs: Any) -> LightningModule:
        if self.checkpoint:
            kwargs["encoder_config"] = self.checkpoint.encoder_config
        return class_type(*args, **kwargs)

    def _make_data(self, class_type: type[LightningDataModule], *args: Any, **kwargs: Any) -> LightningDataModule:
        data = class_type(*args, **kwargs)
        data.checkpoint = self.checkpoint  # type: ignore[attr-defined]
        return data

    def instantiate_classes(self) -> None:
        """Make data module, module and trainer; to predict texts, a trainer alone, for its device."""
        if self.settings.get("input") is None:
            with ranks.rank_zero_first():
                super().instantiate_classes()
            return
        self.config_init, self.model, self.datamodule = self.config, None, None
        names = ("accelerator", "devices", "num_nodes", "precision", "default_root_dir")
        self.trainer = Trainer(**{name: self.settings.trainer[name] for name in names}, logger=False)
        self.run_dir = self._make_run_dir()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer with this project's callbacks, and for `fit` the run's folder, logger and checkpoints."""
        settings = self.config_init[self.subcommand]
        options, fit = dict(settings.trainer), self.subcommand == "fit"
        real = not options["fast_dev_run"] and not options["barebones"]
        self.run_dir = self._make_run_dir()
        if options["logger"] in (None, True) and not options["barebones"]:
            # Of what was logged after the checkpoint, nothing is to be seen: it comes again.
            after: Any = {"purge_step": self.checkpoint.global_step} if self.checkpoint else {}
            log = TensorBoardLogger(self.run_dir, name="", version="", default_hp_metric=False, **after)
            options["logger"] = log if fit else False
        callbacks = _as_list(options["callbacks"])
        if self.checkpoint:  # what these found is in the run's config
            callbacks = [item for item in callbacks if not isinstance(item, LearningRateFinder | BatchSizeFinder)]
        callbacks += [RecordTuned(self._config_path), progress.RunSummary(), Throughput(), TensorBoardCallback()]
        bars = any(isinstance(item, ProgressBar) for item in callbacks)
        if options["enable_progress_bar"] is not False and not bars and not options["barebones"]:
            callbacks.append(progress.ProgressBar())
        if fit and real:
            callbacks.append(RunRecord(next_free_path(self.run_dir / run_dir.PROVENANCE)))
        if options["enable_checkpointing"] is not False and not options["barebones"]:
            folder = Path(settings.checkpoint.dirpath or self.run_dir / run_dir.CHECKPOINTS)
            settings.checkpoint.dirpath = str(folder)
            callbacks.append(settings.checkpoint)
            if real:
                callbacks.append(PreemptionCheckpoint(folder / run_dir.LAST, self.settings.checkpoint_minutes))
        options["callbacks"] = callbacks
        options["plugins"] = [*_as_list(options["plugins"]), AtomicCheckpointIO()]
        if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
            # Lightning's own requeueing would save elsewhere; `PreemptionCheckpoint` does it.
            options["plugins"].append(SLURMEnvironment(auto_requeue=False))
        trainer = Trainer(**{**options, **kwargs})
        ranks.check_launched_processes(trainer.world_size)
        return trainer

    def _make_run_dir(self) -> Path:
        """Return the folder of the run that the checkpoint belongs to, else a new one, made by rank 0 alone."""
        settings, root = self.settings, Path(self.settings.trainer.default_root_dir or "runs")
        run = run_dir.run_dir_of(settings.ckpt_path)
        elsewhere = self.subcommand == "predict" and (settings.output is not None or settings.input == STDIN)
        if settings.trainer.fast_dev_run or elsewhere or rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            return run or root  # this process writes nothing there
        if run is None:
            run = self._new_run_dir = run_dir.create_run_dir(root, self._recipe)
        if self.subcommand == "fit":
            self._lock = run_dir.lock(run)
        if self._new_run_dir or self.subcommand == "fit":
            self._config_path = next_free_path(run / run_dir.CONFIG)
            with atomic_write(self._config_path) as partial:
                self.subparsers[str(self.subcommand)].save(self.settings, partial, skip_none=False)
        return run

    # --- subcommands --------------------------------------------------------------------------------------------------

    def fit(self, **kwargs: Any) -> None:
        """Train; then test, report, and export the best checkpoint."""
        started = time.monotonic()
        self.trainer.fit(**kwargs)
        settings = self.settings
        if settings.trainer.fast_dev_run or settings.trainer.barebones:
            return
        chosen = {name: settings.trainer[name] for name in ("max_epochs", "precision", "gradient_clip_val")}
        params = {**self.model.hparams, **self.datamodule.hparams, **chosen, "seed": settings.seed_everything}
        params.pop("encoder_config", None)
        seconds = time.monotonic() - started
        self.results = finish.finish_fit(
            *(self.trainer, self.model, self.datamodule, self.run_dir, seconds),
            *(settings.test_after_fit, settings.projector, params),
        )
        if self.trainer.is_global_zero and self.results["checkpoint"] and settings.export_after_fit:
            folder = next_free_path(self.run_dir / run_dir.EXPORT)
            export(self.run_dir / self.results["checkpoint"], folder, self.results)
            status("export", f'{display_path(folder)}, for transformers.pipeline("text-classification", ...)')

    def validate(self, **kwargs: Any) -> None:
        """Evaluate on the validation rows."""
        self._evaluate("val")

    def test(self, **kwargs: Any) -> None:
        """Evaluate on the test rows."""
        self._evaluate("test")

    def _evaluate(self, split: str) -> None:
        self.results = finish.evaluate(self.trainer, self.model, self.datamodule, split, self.settings.ckpt_path)
        if self.trainer.is_global_zero and not self.settings.trainer.fast_dev_run:
            path = next_free_path(self.run_dir / f"metrics-{split}.json")
            report.write_json(path, {**self.results, "checkpoint": self.settings.ckpt_path})
            status("metrics", display_path(path))

    def predict(self, **kwargs: Any) -> None:
        """Predict rows of the data set, or those of `--input`."""
        if self.settings.input is None:
            predict_split(self.trainer, self.model, self.datamodule, self.settings, self.run_dir)
        else:
            predict_texts(self.trainer, self.settings, self.run_dir)


def _as_list(value: Any) -> list[Any]:
    """Return what may be one thing, several, or none, as a list."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
