"""The command line: LightningCLI with this project's classes, links, defaults and subcommands."""

import sys
import time
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, LRSchedulerTypeTuple
from lightning.pytorch.utilities import rank_zero_only
from torch.optim import Optimizer

from lit_bert.callbacks.distillation import Distillation
from lit_bert.console import silence_chatter, status
from lit_bert.data.formats import STDIN
from lit_bert.datamodule import TextClassificationDataModule
from lit_bert.errors import is_out_of_memory
from lit_bert.evaluation import finish
from lit_bert.files import atomic_write, display_path, next_free_path
from lit_bert.inference.export import export
from lit_bert.inference.predict import predict_split, predict_texts
from lit_bert.modeling.checkpoint import Checkpoint
from lit_bert.module import BertClassifier
from lit_bert.run import defaults, hardware, openmp, ranks, resume, run_dir
from lit_bert.run.exit import exit_on_sigterm, explain_and_exit, explain_out_of_memory
from lit_bert.run.help import check_command, program
from lit_bert.run.options import FitOptions, PredictOptions
from lit_bert.run.parser import Parser
from lit_bert.run.start import find_start
from lit_bert.run.trainer import make_trainer


def as_dict(spec: Any) -> dict[str, Any] | None:
    """Return a class and its arguments as the module's hyperparameters have them."""
    return spec and dict(spec.as_dict())


def main(
    args: list[str] | None = None,
    model_class: type[LightningModule] = BertClassifier,
    datamodule_class: type[LightningDataModule] = TextClassificationDataModule,
) -> "BertCLI":
    """Run a command, such as `["fit", "--config", "configs/packaged.yaml"]`; None takes the process's arguments.

    The classes may be subclasses of your own.

    Returns:
        The CLI object, with `trainer`, `model`, `datamodule`, `config`, `run_dir` and `results`.

    Raises:
        SystemExit: With status 2 after a user's mistake, which has been explained on standard error; with 1 if another
            rank is gone; with 128 and the signal's number after a signal that stopped training; with 0 if `fit` is to
            go on with a run that is finished.
    """
    check_command(sys.argv[1:] if args is None else args)
    silence_chatter()
    hardware.keep_freed_memory()
    openmp.limit_threads()
    try:
        exit_on_sigterm()
        with openmp.LoadMonitor():
            return BertCLI(args, model_class, datamodule_class)
    except Exception as error:
        explain_and_exit(error)
        raise


class BertCLI(LightningCLI):
    """LightningCLI that keeps a folder for each run, resumes it, and says what came out of it: see `main`."""

    def __init__(
        self, args: ArgsType, model_class: type[LightningModule], datamodule_class: type[LightningDataModule]
    ) -> None:
        self._classes = (model_class, datamodule_class)
        self.checkpoint: Checkpoint | None = None
        self.results: dict[str, Any] = {}
        self.subparsers: dict[str, LightningArgumentParser] = {}
        self._ckpt_path: str | None = None
        self._recipe = "run"
        self._new_run_dir: Path | None = None
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
                    "prog": program(),
                    **{name: {"command": name} for name in LightningCLI.subcommands()},
                },
                trainer_defaults=defaults.TRAINER,
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

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Leave out arguments that only Python callers can use, and `weights_only`: it must stay on."""
        skip = {"weights_only", "verbose", "return_predictions"}
        return {name: arguments | skip for name, arguments in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: Parser) -> None:  # type: ignore[override]
        """Add what follows `fit`, checkpoints, optimizers, the options of `predict`, and the links."""
        self.subparsers[str(parser.command)] = parser
        parser.add_class_arguments(FitOptions, None, instantiate=False)
        if parser.command == "predict":
            parser.add_class_arguments(PredictOptions, None, instantiate=False)
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({f"checkpoint.{name}": value for name, value in defaults.CHECKPOINT.items()})
        if parser.command == "fit":
            parser.add_lightning_class_args(Distillation, "distillation")
        parser.add_optimizer_args((Optimizer,))
        parser.add_lr_scheduler_args(LRSchedulerTypeTuple)
        for name in ("optimizer", "lr_scheduler"):
            parser.link_arguments(name, f"model.{name}", as_dict)
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")
        parser.link_arguments("model.pretrained", "data.tokenizer")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; with neither `--config` nor a checkpoint, which brings its settings, take the default recipe."""
        assert args is None or isinstance(args, list)
        arguments = list(sys.argv[1:] if args is None else args)
        given = parser.parse_args([word for word in arguments if not word.startswith("--print_config")])
        settings, subparser = given[given.subcommand], self.subparsers[given.subcommand]
        self.checkpoint, folder, self._recipe = find_start(
            given.subcommand, settings, settings.config or given.config or [], subparser
        )
        self.config = parser.parse_args(arguments)
        self._ckpt_path = str(self.checkpoint.path) if self.checkpoint else folder
        self.config[given.subcommand].ckpt_path = None  # or LightningCLI would read the checkpoint, too

    def before_instantiate_classes(self) -> None:
        """Fill in what depends on this machine, so that the saved config says what was done."""
        self.settings = self.config[self.subcommand]
        self.settings.ckpt_path = self._ckpt_path
        defaults.complete(self.settings)
        if self.subcommand == "fit" and self.checkpoint:
            resume.exit_if_finished(self.checkpoint, yaml.safe_load(self._config_text()))
        for make, kind in zip((self._make_model, self._make_data), self._classes, strict=True):
            self.parser.add_instantiator(make, kind, subclasses=True)

    def _make_model(self, class_type: type[LightningModule], *args: Any, **kwargs: Any) -> LightningModule:
        if self.checkpoint:
            kwargs["encoder_config"] = self.checkpoint.encoder_config
        return class_type(*args, **kwargs)

    def _make_data(self, class_type: type[LightningDataModule], *args: Any, **kwargs: Any) -> LightningDataModule:
        data = class_type(*args, **kwargs)
        data.checkpoint = self.checkpoint  # type: ignore[attr-defined]
        return data

    def instantiate_classes(self) -> None:
        """Make data module, module and trainer; to predict texts, a trainer alone, for its devices."""
        if self.settings.get("input") is None:
            with ranks.rank_zero_first():
                super().instantiate_classes()
            return
        self.config_init, self.model, self.datamodule = self.config, None, None
        names = ("accelerator", "devices", "num_nodes", "precision", "default_root_dir")
        bare = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        options = {name: self.settings.trainer[name] for name in names} | dict.fromkeys(bare, False)
        self.trainer = Trainer(**options, use_distributed_sampler=False)
        self.run_dir = self._make_run_dir()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the run's folder, and the trainer with this project's callbacks."""
        settings, fit = self.config_init[self.subcommand], self.subcommand == "fit"
        if fit:
            defaults.complete_epochs(self.settings, self.datamodule)
            settings.trainer.max_epochs = kwargs["max_epochs"] = self.settings.trainer.max_epochs
        self.run_dir = self._make_run_dir()
        return make_trainer(settings, fit, self.run_dir, self._config_text(), self.checkpoint, **kwargs)

    def _make_run_dir(self) -> Path:
        """Return the folder of the run that the checkpoint belongs to, else a new one, made by rank 0 alone."""
        settings, fit = self.settings, self.subcommand == "fit"
        root, run = Path(settings.trainer.default_root_dir or "runs"), run_dir.run_dir_of(settings.ckpt_path)
        if self.subcommand == "predict" and settings.input not in (None, STDIN):
            return run or Path(settings.input).parent
        elsewhere = self.subcommand == "predict" and (settings.output is not None or settings.input == STDIN)
        if settings.trainer.fast_dev_run or elsewhere or rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            return run or root  # this process writes nothing there
        if run is None:
            run = self._new_run_dir = run_dir.create_run_dir(
                root, run_dir.run_name(self._recipe, settings.data.dataset), settings.name
            )
        if fit:
            self._lock = run_dir.lock(run)
        elif self._new_run_dir:
            with atomic_write(run / run_dir.CONFIG) as partial:
                partial.write_text(self._config_text(), encoding="utf-8")
        return run

    def _config_text(self) -> str:
        return str(self.subparsers[str(self.subcommand)].dump(self.settings, skip_none=False))

    def fit(self, **kwargs: Any) -> None:
        """Train; then test, report, and export the best checkpoint."""
        started = time.monotonic()
        self.trainer.fit(**kwargs)
        settings = self.settings
        if settings.trainer.fast_dev_run or settings.trainer.barebones:
            return
        seconds = time.monotonic() - started
        self.results = finish.finish_fit(
            *(self.trainer, self.model, self.datamodule, self.run_dir, seconds),
            *(settings.test_after_fit, settings.projector, settings.seed_everything),
        )
        own_forward = type(self.model).forward is not BertClassifier.forward  # which transformers does not have
        if self.trainer.is_global_zero and self.results["checkpoint"] and settings.export_after_fit and not own_forward:
            folder = next_free_path(self.run_dir / run_dir.EXPORT)
            export(self.run_dir / self.results["checkpoint"], folder, self.results)
            status("export", f'{display_path(folder)}, for transformers.pipeline("text-classification", ...)')

    def validate(self, **kwargs: Any) -> None:
        self._evaluate("val")

    def test(self, **kwargs: Any) -> None:
        self._evaluate("test")

    def _evaluate(self, split: str) -> None:
        folder = None if self.settings.trainer.fast_dev_run else self.run_dir
        ckpt_path = self.settings.ckpt_path
        status(split, self._what(split))
        self.results = finish.evaluate(self.trainer, self.model, self.datamodule, split, ckpt_path, folder)

    def _what(self, split: str) -> str:
        model = display_path(self.checkpoint.path) if self.checkpoint else f"--model.pretrained {self.model.pretrained}"
        return f"{model} on the {split} rows of {self.datamodule.dataset}"

    def predict(self, **kwargs: Any) -> None:
        if self.settings.input is None:
            status("predict", self._what(self.datamodule.predict_split), err=True)
            predict_split(self.trainer, self.model, self.datamodule, self.settings, self.run_dir)
        else:
            predict_texts(self.trainer, self.settings, self.run_dir)
