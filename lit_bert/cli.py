"""The command line: LightningCLI with this project's classes, links and defaults, and a folder for each run."""

import errno
import logging
import os
import signal
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from torch import distributed

from lit_bert import (
    board,
    checkpoints,
    evaluation,
    export,
    files,
    machine,
    predictions,
    progress,
    report,
    run_folder,
    streaming,
    texts,
)
from lit_bert.datamodule import RottenTomatoesDataModule
from lit_bert.errors import UserError
from lit_bert.module import BertClassifier
from lit_bert.parser import Parser
from lit_bert.predictor import Predictor
from lit_bert.provenance import Provenance
from lit_bert.recipe import default_recipe
from lit_bert.resume import Interrupted, Resumable
from lit_bert.throughput import Throughput


def main(args: list[str] | None = None) -> LightningCLI:
    """Run a command, such as `["fit", "--config", "configs/packaged.yaml"]`; None takes the process's arguments.

    Returns:
        The CLI object, with `trainer`, `model`, `datamodule` and `config`.

    Raises:
        SystemExit: With status 2 after a user's mistake, which has been explained on standard error; with 1 if another
            rank is gone; with 128 and the signal's number after a signal that stopped training.
    """
    silence_chatter()
    machine.keep_freed_memory()
    try:
        return BertCLI(args)
    except Interrupted as stop:
        name = signal.Signals(stop.signal_number).name
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            path = run_folder.shown(stop.checkpoint)
            sys.stderr.write(f"stopped by {name}; go on with\npython train.py fit --ckpt_path {path}\n")
        raise SystemExit(128 + stop.signal_number) from None
    except Exception as error:
        if _lost_a_rank(error):
            line = str(error).partition("] ")[2].partition(". ")[0] or str(error).splitlines()[0]
            sys.stderr.write(
                f"error: rank {distributed.get_rank()} lost another rank, whose message says why ({line})\n"
            )
            raise SystemExit(1) from error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # TensorBoard's
            error = UserError(f"cannot write {error.filename or 'events'}: {error.strerror}; {checkpoints.FULL}")
        if not isinstance(error, UserError) and not _raised_by_lightning(error):
            raise
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error


def _lost_a_rank(error: Exception) -> bool:
    """Tell whether a collective failed because the process of another rank has ended."""
    if not distributed.is_available() or not distributed.is_initialized():
        return False
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def _raised_by_lightning(error: Exception) -> bool:
    """Tell whether Lightning itself refused a value that it was given."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    module = frame.tb_frame.f_globals.get("__name__", "") if frame else ""
    return module.startswith("lightning.") and isinstance(error, ValueError | TypeError | MisconfigurationException)


def silence_chatter() -> None:
    """Turn off what other libraries say that a user of this project cannot act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # batches this small are made faster in the training process
        ".*isinstance.treespec, LeafSpec.*",
        ".*Checkpoint directory .* exists and is not empty.*",  # it does when a run is resumed
        ".*The dirpath has changed from .*",  # it has when a checkpoint was moved
        ".*The number of training batches .* is smaller than the logging interval.*",
        ".*your dataloader is not resumable.*",  # the data module is
        ".*when logging on epoch level in distributed setting.*",  # every rank logs the same value
    ):
        warnings.filterwarnings("ignore", message)


class BertCLI(LightningCLI):
    """Fine-tune BERT on Rotten Tomatoes.

    Args:
        args: Arguments, or None for the process's own.
    """

    def __init__(self, args: ArgsType = None) -> None:
        self.console = Console(highlight=False, soft_wrap=True, quiet=rank_zero_only.rank != 0)  # type: ignore[attr-defined]
        self._claimed: Path | None = None
        self._stored: dict[str, Any] = {}
        try:
            super().__init__(
                BertClassifier,
                RottenTomatoesDataModule,
                args=args,
                parser_class=Parser,
                save_config_callback=None,  # it refuses to resume in a folder that has a config.yaml
                seed_everything_default=1,
                parser_kwargs={"description": "Fine-tune, evaluate and use BERT for sentence classification."},
                trainer_defaults={
                    "default_root_dir": "runs",
                    "max_epochs": 3,
                    "gradient_clip_val": 1.0,
                    "log_every_n_steps": 10,
                    "num_sanity_val_steps": 0,
                    "enable_model_summary": False,
                },
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,  # checkpoints hold what __init__ got, and nothing that imports code
            )
        except BaseException:
            if self._claimed and (not hasattr(self, "trainer") or not self.trainer.global_step):
                run_folder.discard(self._claimed)
            raise

    # --- arguments ----------------------------------------------------------------------------------------------------

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Leave out arguments that only Python callers can use, and `weights_only`: it must stay on."""
        skip = {"weights_only", "verbose", "return_predictions"}
        return {name: arguments | skip for name, arguments in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what `fit` ends with, the checkpoints' settings, and the link of the class names."""
        parser.add_argument(
            "--test_after_fit", type=bool, default=True, help="Whether `fit` ends with a test of the best checkpoint."
        )
        parser.add_argument(
            "--export_after_fit",
            type=bool,
            default=True,
            help="Whether `fit` ends with a folder that transformers loads, of the best checkpoint: `export`.",
        )
        parser.add_argument(
            "--projector",
            type=bool,
            default=False,
            help="Whether `fit` ends with the validation rows' [CLS] vectors in TensorBoard's projector.",
        )
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
        parser.link_arguments("data.class_names", "model.class_names")

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Add the options of `predict`, and link the tokenizer to encoder or checkpoint: all are there only now."""
        super().setup_parser(*args, **kwargs)
        predict = self._subcommand_parsers["predict"]
        predict.add_argument(
            "--input",
            type=str | None,
            help="File of texts to predict in place of the data set's: .txt (one a line), .csv, .jsonl or .parquet (of "
            "these --data.text_column); - for lines of standard input.",
        )
        predict.add_argument(
            "--output",
            type=str | None,
            help="File for the predictions; - for standard output. By default it is in the run's folder, "
            "or, if --input is -, standard output.",
        )
        predict.add_argument(
            "--format",
            type=Literal["csv", "jsonl"] | None,
            help="Format of --output; null goes by its name, and is csv for standard output.",
        )
        for parser in self._subcommand_parsers.values():
            parser.link_arguments(("model.pretrained", "ckpt_path"), "data.tokenizer", lambda name, path: path or name)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; with neither `--config` nor a checkpoint, take the default recipe.

        A checkpoint brings the config of its run if it lies in the run's folder, and else what is stored in it.
        """
        assert args is None or isinstance(args, list)
        words = list(sys.argv[1:] if args is None else args)
        plain = [word for word in words if not word.startswith("--print_config")]
        given = parser.parse_args(plain)  # ends here for --help, and for a mistake
        settings = given[given.subcommand]
        config = None
        if given.subcommand == "predict" and settings.input is not None:
            if not settings.ckpt_path:
                raise UserError(f"--input {settings.input}: give a checkpoint, or an exported folder, with --ckpt_path")
            if Path(settings.ckpt_path).is_dir():
                self.config = given
                return
        path = self._checkpoint(settings, given.subcommand)
        if path or settings.ckpt_path:
            words.append(f"--ckpt_path={path or 'null'}")
        if path:
            self._default_to(checkpoints.read(path), given.subcommand)
            if run := run_folder.owner(path):
                config = run_folder.config(run)
        elif not (settings.config or given.config):
            config, why = default_recipe()
            self._tell("recipe", f"{config.name}: {why}; choose with --config configs/NAME.yaml")
        if config and not (settings.config or given.config):
            at = words.index(given.subcommand) + 1
            words[at:at] = ["--config", str(config)]
        self.config = parser.parse_args(words)

    def _checkpoint(self, settings: Any, subcommand: str) -> Path | None:
        """Return the checkpoint to start from: the one named, the newest for "last", that of the job put back in queue.

        If training is to go on from a `last.ckpt` that is damaged or gone, the newest whole one beside it is taken.
        """
        path = settings.ckpt_path
        root = Path(settings.trainer.default_root_dir or "runs")
        if path == "last" or (subcommand == "fit" and not path and run_folder.requeued()):
            runs = run_folder.of_this_job(root) if run_folder.requeued() else []
            found = checkpoints.newest(folder / run_folder.CHECKPOINTS for folder in runs)
            if path and not found:
                found = checkpoints.newest(root.absolute().glob(f"*/{run_folder.CHECKPOINTS}"))
            if found is None and subcommand != "fit":
                raise UserError(f"--ckpt_path last: there is no checkpoint in {root}; name its file")
            self._tell(
                "resume", f"from {run_folder.shown(found)}" if found else f"no checkpoint in {root} yet: from scratch"
            )
            return found
        if not path:
            return None
        try:
            checkpoints.read(path)
        except UserError as error:
            other = checkpoints.newest([Path(path).parent])
            if other is None or subcommand != "fit" or Path(path).name != run_folder.LAST:
                raise
            self._tell("resume", f"{str(error).partition(';')[0]}; from {run_folder.shown(other)} instead")
            return other
        return Path(path)

    @staticmethod
    def _tell(topic: str, line: str) -> None:
        """Say something while arguments are read: not where --print_config writes."""
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            sys.stderr.write(f"{topic:8} {line}\n")

    def _default_to(self, checkpoint: dict[str, Any], subcommand: str) -> None:
        """Make what a checkpoint stored the defaults of the parser, so that flags and config files come first.

        LightningCLI does it the other way round (Lightning-AI/pytorch-lightning#21455).
        """
        parser = self._subcommand_parsers[subcommand]
        self._stored = checkpoint
        stored = {f"model.{key}": value for key, value in checkpoint["hyper_parameters"].items()}
        stored |= {f"data.{key}": value for key, value in checkpoint.get("datamodule_hyper_parameters", {}).items()}
        linked = {"model.class_names", "data.tokenizer"}
        known = set(parser.get_defaults(skip_validation=True).keys()) - linked
        parser.set_defaults({key: value for key, value in stored.items() if key in known})

    def _parse_ckpt_path(self) -> None:
        """Do nothing: `_default_to` has done it."""

    # --- the run ------------------------------------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        """Fill in what depends on this machine, so that the saved config says what was done."""
        settings = self.config[self.subcommand]
        if settings.trainer.precision is None:
            settings.trainer.precision = "bf16-mixed" if machine.fast_bf16(settings.trainer.accelerator) else "32-true"
        checkpoint = settings.checkpoint
        if checkpoint.filename is None:
            monitor = checkpoint.monitor
            score = f"-{monitor.replace('/', '_')}={{{monitor}:.4f}}" if monitor else ""
            checkpoint.filename = f"epoch={{epoch}}{score}"

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer, and for `fit` the run's folder with its config, logger and checkpoints."""
        settings = self._get(self.config_init, "trainer")
        checkpoint = self._get(self.config_init, "checkpoint")
        self.run_dir = self._make_run_dir(Path(settings.default_root_dir or "runs"), settings.fast_dev_run)
        if checkpoint.dirpath is None:
            checkpoint.dirpath = str(self.run_dir / run_folder.CHECKPOINTS)
        if settings.logger in (None, True):
            fit = self.subcommand == "fit"
            # Of what was logged after the checkpoint, nothing is to be seen: it comes again.
            after = self._stored and {"purge_step": self._stored["global_step"]}
            kwargs["logger"] = (
                TensorBoardLogger(self.run_dir, name="", version="", default_hp_metric=False, **after) if fit else False
            )
        self.throughput = Throughput()
        callbacks = [*_listed(settings.callbacks), progress.Opening(self.console), self.throughput, board.Board()]
        if settings.enable_progress_bar is not False:
            callbacks.append(progress.ProgressBar())
        if self.subcommand == "fit" and not settings.fast_dev_run:
            callbacks.append(Provenance(run_folder.unused(self.run_dir / run_folder.PROVENANCE)))
        kwargs["callbacks"] = callbacks
        kwargs["plugins"] = [*_listed(settings.plugins), checkpoints.AtomicCheckpointIO()]
        if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
            # Lightning's own requeueing would save elsewhere; `Resumable` does it.
            kwargs["plugins"].append(SLURMEnvironment(auto_requeue=False))
        trainer = super().instantiate_trainer(**kwargs)
        if not settings.fast_dev_run:
            every = timedelta(minutes=self._get(self.config, "checkpoint_minutes"))
            # The last of all callbacks, for its checkpoint holds the state of the others.
            cast(Any, trainer).callbacks.append(Resumable(Path(checkpoint.dirpath) / run_folder.LAST, every))
        return trainer

    def _make_run_dir(self, root: Path, fast_dev_run: Any) -> Path:
        """Return the folder of the run that the checkpoint belongs to, else a new one, made by rank 0 alone."""
        settings = self.config[self.subcommand]
        run = run_folder.owner(settings.ckpt_path)
        elsewhere = self.subcommand == "predict" and (settings.output is not None or settings.input == texts.STDIN)
        if fast_dev_run or elsewhere or rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            return run or root  # this process writes nothing there
        if run is None:
            recipe = Path(str(settings.config[-1])).stem if settings.get("config") else "run"
            run = self._claimed = run_folder.claim(root, recipe)
        if self._claimed or self.subcommand == "fit":
            with files.replacing(run_folder.unused(run / run_folder.CONFIG)) as partial:
                self._parser(self.subcommand).save(settings, partial, skip_none=False)
        return run

    # --- what the subcommands do beside Lightning's part -----------------------------------------------------------

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Hand the checkpoint to the trainer beforehand, so that the module knows that it need not fetch an encoder."""
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        self.trainer.ckpt_path = kwargs.pop("ckpt_path")
        return kwargs

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; for want of memory, say what takes it."""
        try:
            super()._run_subcommand(subcommand)
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            data = self.datamodule
            if not data.splits:  # the texts of --input
                raise UserError(
                    "out of memory predicting texts; lower --data.max_length, or use --trainer.accelerator cpu"
                ) from error
            training = self.model.training
            option = "batch_size" if training else "eval_batch_size"
            longest = max(max(map(len, rows["input_ids"])) for rows in data.splits.values())
            raise UserError(
                f"out of memory with --data.{option} {getattr(data, option)} and sentences of up to {longest} tokens: "
                f"halve the batch{' and set --trainer.accumulate_grad_batches 2' if training else ''}, or lower "
                "--data.max_length; checkpoints written before are intact"
            ) from error

    def before_fit(self) -> None:
        """Take the time."""
        self._started = time.monotonic()

    def after_fit(self) -> None:
        """Test the best checkpoint, print the tables, write `metrics.json`, fill TensorBoard's page, and export."""
        if self._get(self.config, "trainer").fast_dev_run:
            return
        seconds = time.monotonic() - self._started
        best: str | None = self._get(self.config_init, "checkpoint").best_model_path
        if not best or not Path(best).is_file():  # there is none, or it was removed before the run was resumed
            best = None
        rows = {"val": checkpoints.read(best)["val_rows"] if best else self.model.seen.get("val")}
        settings = self.config.fit
        if settings.test_after_fit:
            self.trainer.ckpt_path = None
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best, verbose=False)
            rows["test"] = self.model.seen.get("test")
        vectors = {}
        if settings.projector and rows["val"]:
            self.model.vectors_below = int(rows["val"]["index"][: board.PROJECTED][-1]) + 1
            self.datamodule.predict_split = "val"
            found = self.trainer.predict(self.model, datamodule=self.datamodule, ckpt_path=best)
            vectors = predictions.gather(found or [])  # type: ignore[arg-type]
        if not self.trainer.is_global_zero:
            return
        rows = {split: of for split, of in rows.items() if of}
        records = evaluation.records(self.model, self.datamodule, rows)
        report.show(self.console, records)
        trust = evaluation.trust(rows["val"], rows["test"]) if len(rows) == 2 else {}
        speed = self.throughput.summary(self.trainer)
        report.save(
            self.run_dir / run_folder.METRICS,
            {
                **records,
                "calibration": trust,
                "checkpoint": best and os.path.relpath(best, self.run_dir),
                "fit_seconds": round(seconds, 1),
                "throughput": speed,
                "seed": settings.seed_everything,
            },
        )
        if to := board.writer(self.trainer):
            chosen = {key: settings.trainer[key] for key in ("max_epochs", "precision", "gradient_clip_val")}
            params = {**self.model.hparams, **self.datamodule.hparams, **chosen, "seed": settings.seed_everything}
            board.finish(to, self.trainer, rows, records, trust.get("temperature"), params)
            if vectors:
                board.write_projection(to, self.trainer, rows["val"], vectors)
        if speed:
            self._say(
                f"speed    {speed['sentences_per_s']:,.0f} sentences/s, {speed['tokens_per_s']:,.0f} tokens/s, "
                f"{speed['padding_waste']:.1%} padding, {speed['share_of_matmul_rate']:.0%} of the device's matrix rate"
            )
        if trust:
            self._say(
                "trust    calibration error of test rows {test_ece:.3f}, and {test_ece_calibrated:.3f} at temperature "
                "{temperature:.2f}: python -m lit_bert.export --calibrate".format(**trust)
            )
        self._say(f"run      {run_folder.shown(self.run_dir)} (trained in {seconds:.0f} s)")
        if to:
            self._say(f"look     tensorboard --logdir {run_folder.shown(self.run_dir.parent)}")
        if best:
            path = run_folder.shown(best)
            self._say(f"test     python train.py test --ckpt_path {path}")
            self._say(f"predict  python train.py predict --ckpt_path {path}")
            if settings.export_after_fit:
                folder = run_folder.unused(self.run_dir / run_folder.EXPORT)
                export.export(Path(best), folder, records, say=self._say)
                self._say(f'export   {run_folder.shown(folder)}, for transformers.pipeline("text-classification", ...)')

    def validate(self, **kwargs: Any) -> None:
        """Evaluate on the validation rows."""
        self.trainer.validate(**kwargs, verbose=False)
        self._evaluated("val")

    def test(self, **kwargs: Any) -> None:
        """Evaluate on the test rows."""
        self.trainer.test(**kwargs, verbose=False)
        self._evaluated("test")

    def _evaluated(self, split: str) -> None:
        rows = self.model.seen.get(split)
        if not rows:
            raise UserError(f"--trainer.limit_{split}_batches: nothing was evaluated")
        if not self.trainer.is_global_zero:
            return
        records = evaluation.records(self.model, self.datamodule, {split: rows})
        report.show(self.console, records)
        if not self._get(self.config, "trainer").fast_dev_run:
            path = run_folder.unused(self.run_dir / f"metrics-{split}.json")
            report.save(path, {**records, "checkpoint": self.config[self.subcommand].ckpt_path})
            self._say(f"metrics  {run_folder.shown(path)}")

    def predict(self, **kwargs: Any) -> None:
        """Predict rows of the data set, or those of `--input`."""
        settings = self.config.predict
        output = settings.output
        if output is None and settings.input == texts.STDIN:
            output = predictions.STDOUT
        elif output is None:
            stem = "predictions" if settings.input is None else f"predictions-{Path(settings.input).stem}"
            output = str(run_folder.unused(self.run_dir / f"{stem}.{settings.format or 'csv'}"))
        format = settings.format or ("jsonl" if Path(output).suffix == ".jsonl" else "csv")
        if settings.input is not None:
            if self.trainer.world_size > 1:
                raise UserError(f"--input {settings.input}: it is read on one device; set --trainer.devices 1")
            data = settings.data
            device, precision = str(self.trainer.strategy.root_device), str(self.trainer.precision)
            predictor = Predictor(settings.ckpt_path, device, precision, data.max_length)
            console = Console(highlight=False, soft_wrap=True, stderr=True)
            stream = streaming.Stream(predictor, settings.input, data.text_column, data.label_column, console)
            stream.write(output, format)
            return
        joined = predictions.gather(self.trainer.predict(**kwargs) or [])  # type: ignore[arg-type]
        if not joined:
            raise UserError("--trainer.limit_predict_batches: nothing was predicted")
        if self.trainer.is_global_zero and not self._get(self.config, "trainer").fast_dev_run:
            predictions.write(output, format, joined, self.datamodule.splits[self.datamodule.predict_split])
            if output != predictions.STDOUT:
                self._say(f"{len(joined['index']):,} predictions are in {run_folder.shown(output)}")


def _listed(value: Any) -> list[Any]:
    """Return what may be one thing, several, or none, as a list."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
