"""The command line: LightningCLI with this project's classes, links, defaults and subcommands."""

import sys
import time
from contextlib import ExitStack
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, LRSchedulerTypeTuple
from torch.optim import Optimizer

from lit_bert.console import silence_chatter
from lit_bert.datamodule import TextClassificationDataModule
from lit_bert.errors import is_out_of_memory
from lit_bert.module import BertClassifier
from lit_bert.run import commands, defaults, hardware, openmp, ranks
from lit_bert.run.best_checkpoint import BestCheckpoint
from lit_bert.run.exit import exit_on_sigterm, explain_and_exit, explain_out_of_memory
from lit_bert.run.help import call, check_command
from lit_bert.run.options import add_options
from lit_bert.run.parser import Parser
from lit_bert.run.run_dir import open_run_dir
from lit_bert.run.start import Start, find_start
from lit_bert.run.trainer import make_bare_trainer, make_trainer

Classes = tuple[type[LightningModule], type[LightningDataModule]]


def as_dict(spec: Namespace | None) -> dict[str, Any] | None:
    """Return a class and its arguments as the module's hyperparameters have them."""
    return None if spec is None else dict(spec.as_dict())


def main(
    args: list[str] | None = None,
    model_class: type[LightningModule] = BertClassifier,
    datamodule_class: type[LightningDataModule] = TextClassificationDataModule,
) -> "BertCLI":
    """Run a command, such as `["fit", "--config", "configs/packaged.yaml"]`; None takes the process's arguments.

    The classes may be subclasses of your own. Returns the CLI object, with `trainer`, `model`, `datamodule`, `config`,
    `run_dir` and `results`.

    Raises:
        SystemExit: With status 2 after a user's mistake, which has been explained on standard error; with 1 if another
            rank is gone; with 128 and the signal's number after a signal that stopped training; with 0 if `fit` is to
            go on with a run that is finished.
    """
    words = sys.argv[1:] if args is None else args
    check_command(words)
    silence_chatter()
    hardware.keep_freed_memory()
    openmp.limit_threads()
    try:
        exit_on_sigterm()
        with openmp.LoadMonitor(), ExitStack() as stack:
            return BertCLI(words, find_start(words), stack, (model_class, datamodule_class))
    except Exception as error:
        explain_and_exit(error)
        raise


class BertCLI(LightningCLI):
    """LightningCLI that keeps a folder for each run, resumes it, and says what came out of it: see `main`."""

    def __init__(self, words: list[str], start: Start, stack: ExitStack, classes: Classes) -> None:
        self._words, self.start, self._stack = words, start, stack
        self.results: dict[str, Any] = {}
        try:
            super().__init__(
                classes[0],
                classes[1],
                args=words,
                parser_class=Parser,
                save_config_callback=None,  # `RunRecord` writes, once a resumption can no longer be refused
                seed_everything_default=1,
                parser_kwargs={"prog": call(), start.command: {"command": start.command}},
                trainer_defaults=defaults.TRAINER,
                auto_configure_optimizers=False,  # those have no decay groups, and step once an epoch
                load_from_checkpoint_support=False,  # checkpoints hold what __init__ got, and nothing that imports code
            )
        except Exception as error:
            if is_out_of_memory(error):
                raise explain_out_of_memory(self.datamodule, self.model is not None and self.model.training) from error
            raise

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the one that is run, without arguments that only Python callers can use or that must stay as is."""
        command = self.start.command
        return {command: LightningCLI.subcommands()[command] | {"weights_only", "verbose", "return_predictions"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add this project's options and links, and the defaults that come from a checkpoint or a recipe."""
        self._subparser = parser
        add_options(parser, self.start.command)
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.set_defaults({f"checkpoint.{name}": value for name, value in defaults.CHECKPOINT.items()})
        parser.add_optimizer_args((Optimizer,))
        parser.add_lr_scheduler_args(LRSchedulerTypeTuple)
        for name in ("optimizer", "lr_scheduler"):
            parser.link_arguments(name, f"model.{name}", as_dict)
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")
        parser.link_arguments("model.pretrained", "data.tokenizer")
        self.start.set_defaults(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        assert isinstance(args, list)
        self.config = parser.parse_args(args)
        self.config[self.config.subcommand].ckpt_path = None  # LightningCLI would let the checkpoint's settings win

    def before_instantiate_classes(self) -> None:
        """Fill in what depends on this machine, so that the saved config says what was done."""
        self.settings = self.config[self.subcommand]
        # A run's callbacks are known by their modes: what it watches stays as it was.
        if self.subcommand == "fit" and (not self.start.checkpoint or any(".monitor" in word for word in self._words)):
            defaults.follow_metrics(self.settings, self._words)
        defaults.complete(self.settings)
        self.start.complete(self.settings, self._config_text)
        self.parser.add_instantiator(self.start.make_model, self.model_class, subclasses=True)

    def instantiate_classes(self) -> None:
        """Make data module, module and trainer; to predict texts, a trainer alone, for its devices."""
        if self.settings.get("input") is None:
            with ranks.rank_zero_first():
                own = getattr(self.datamodule_class, "prepare_data", None)
                if own is TextClassificationDataModule.prepare_data:
                    self.start.limit_length(self.settings)
                super().instantiate_classes()
        else:
            self.config_init, self.model, self.datamodule = self.config, None, None
            self.trainer = make_bare_trainer(self.settings.trainer)
            self._open_run_dir()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the run's folder, and the trainer with this project's callbacks."""
        settings = self.config_init[self.subcommand]
        if self.subcommand == "fit":
            defaults.complete_epochs(self.settings, self.datamodule)
            settings.trainer.max_epochs = kwargs["max_epochs"] = self.settings.trainer.max_epochs
        config = self._open_run_dir()
        return make_trainer(settings, self.start, self.run_dir, config, **kwargs)

    def _open_run_dir(self) -> str:
        """Make the run's folder, and return the text of its config."""
        config = self._config_text()
        opened = open_run_dir(self.start.command, self.settings, self.start.recipe, config)
        self._folder = self._stack.enter_context(opened)
        self.run_dir = self._folder.path
        return config

    def _config_text(self) -> str:
        return str(self._subparser.dump(self.settings, skip_none=False))

    def fit(self, **kwargs: Any) -> None:
        """Train; then test, report, and export the best checkpoint."""
        started = time.monotonic()
        try:
            self.trainer.fit(**kwargs)
        finally:
            if self.trainer.global_step:
                self._folder.keep()
        self.results = commands.after_fit(*self._parts(), time.monotonic() - started)

    def validate(self, **kwargs: Any) -> None:
        self.results = commands.evaluate(*self._parts(), "val")

    def test(self, **kwargs: Any) -> None:
        self.results = commands.evaluate(*self._parts(), "test")

    def predict(self, **kwargs: Any) -> None:
        commands.predict(*self._parts())

    def _parts(self) -> tuple[Any, Any, Any, Any, Any]:
        return self.trainer, self.model, self.datamodule, self.run_dir, self.settings
