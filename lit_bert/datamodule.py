"""The LightningDataModule: fetches, samples, tokenises and batches labelled sentences."""

import hashlib
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lit_bert import dataset, pretrained, sources
from lit_bert.batching import LengthGroupedSampler, collate
from lit_bert.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

_FORMAT = 2  # of the tokenised rows in the cache; a change of it leaves older ones behind


class RottenTomatoesDataModule(LightningDataModule):
    """Rotten Tomatoes, or any data set of labelled sentences with its three splits.

    Fetching, checking, sampling and tokenising happen once per node, in `prepare_data`; the result is kept in the
    cache folder under a key made of everything it depends on, and `setup` only reads it.

    Args:
        dataset: Hub data set id (with "@" and a revision, if it is to be pinned), local folder, or "packaged" (Rotten
            Tomatoes from the Python package index); or a CSV, JSONL or Parquet file for each split:
            `--data.dataset.train FILE`, `.validation` and `.test`.
        tokenizer: Where the tokenizer comes from: Hub model id, local folder, checkpoint file, or "packaged".
        text_column: Column of the sentences.
        label_column: Column of the labels: class names, or class numbers from 0.
        class_names: Names of the classes, in the order of their numbers; null takes the data's own.
        train_rows: Training rows, drawn by `shuffle(sample_seed).select(range(n))`; null takes all.
        val_rows: Validation rows, drawn alike; null takes all.
        test_rows: Test rows, drawn alike; null takes all.
        sample_seed: Seed of these draws.
        val_split: Split that `fit` and `validate` evaluate on. Choosing the best checkpoint on "test" makes its score
            there too good.
        predict_split: Which rows `predict` reads: those drawn for "train", "val" or "test".
        batch_size: Training rows per batch, on each device.
        eval_batch_size: Rows per batch of validation, test and prediction, on each device.
        max_length: Tokens kept of a sentence, special tokens included; null keeps what the encoder can take.
        padding: "longest" pads to the longest row of each batch, "max_length" pads every row to `max_length`; a rising
            list such as [16, 24, 32, 48, 80] pads to the first length that fits, so that batches have few shapes.
        group_by_length: Whether rows of about equal length share a batch, which saves padding.
        num_workers: Processes that assemble batches, per device; 0 uses the training process.

    Raises:
        UserError: A value is out of range; later, a fault in the data, named by file and row.
    """

    def __init__(
        self,
        dataset: str | dict[str, str] = "cornell-movie-review-data/rotten_tomatoes",
        tokenizer: str = "google-bert/bert-base-cased",
        text_column: str = "text",
        label_column: str = "label",
        class_names: list[str] | None = None,
        train_rows: int | None = None,
        val_rows: int | None = None,
        test_rows: int | None = None,
        sample_seed: int = 123,
        val_split: Literal["validation", "test"] = "validation",
        predict_split: Literal["train", "val", "test"] = "test",
        batch_size: int = 32,
        eval_batch_size: int = 64,
        max_length: int | None = None,
        padding: Literal["longest", "max_length"] | list[int] = "longest",
        group_by_length: bool = True,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        least = {"train_rows": 1, "val_rows": 1, "test_rows": 1, "max_length": 3, "num_workers": 0, "sample_seed": 0}
        least |= {"batch_size": 1, "eval_batch_size": 1}
        for option, smallest in least.items():
            value = locals()[option]
            if value is not None and value < smallest:
                raise UserError(f"--data.{option} {value}: it must be at least {smallest}")
        if class_names is not None and len(set(class_names)) != max(2, len(class_names)):
            raise UserError(f"--data.class_names {class_names}: at least two different names are needed")
        if isinstance(padding, list) and (padding != sorted(set(padding)) or min(padding, default=0) < 1):
            raise UserError(f"--data.padding {padding}: give rising lengths of at least 1, such as [16, 32, 64]")
        self.save_hyperparameters(logger=False)  # names shared with the module's would clash there
        self.dataset = dataset
        self.tokenizer = tokenizer
        self.text_column = text_column
        self.label_column = label_column
        self.rows = {"train": train_rows, "val": val_rows, "test": test_rows}
        self.sample_seed = sample_seed
        self.val_split = val_split
        self.predict_split = predict_split
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.padding = padding
        self.group_by_length = group_by_length
        self.num_workers = num_workers
        self.class_names = class_names
        self.max_length = max_length
        self.splits: dict[str, Dataset] = {}
        self.tokenizer_files: dict[str, str] = {}
        self._pad_token_id = 0
        self._resumed = (0, 0)
        self._key = ""

    # --- once per node ------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Fetch, check, sample and tokenise, unless the cache has it; shows progress.

        Raises:
            UserError: Something cannot be had, or is faulty.
        """
        if self._key:  # it has been done in this process
            return
        import datasets

        encoder = sources.fetch_encoder(self.tokenizer)
        location, content = dataset.fetch(self.dataset)
        tokenizer, limit = pretrained.tokenizer(encoder, f"--model.pretrained {self.tokenizer}")
        max_length = self.max_length or limit
        if max_length > limit:
            raise UserError(
                f"--data.max_length {max_length}: {self.tokenizer} has positions for {limit} tokens at most"
            )
        class_names = self.hparams["class_names"]  # as given; self.class_names may be the data's by now
        depends = [_FORMAT, content, self.text_column, self.label_column, class_names, self.rows]
        depends += [self.sample_seed, self.val_split, max_length, tokenizer.backend_tokenizer.to_str()]
        self._key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:20]
        with sources.built_once(self._folder) as folder:
            if folder is None:
                return
            if not sys.stderr.isatty():
                datasets.disable_progress_bars()
            datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it would say is said better below
            splits = dataset.load(location, self.text_column, self.label_column, class_names)
            tokenizer.save_pretrained(folder / "tokenizer")
            (folder / "batch.json").write_text(
                json.dumps({"max_length": max_length, "pad_token_id": tokenizer.pad_token_id})
            )
            for name, split in (("train", "train"), ("val", self.val_split), ("test", "test")):
                self._sample(splits[split], name, split).map(
                    lambda rows: {
                        "input_ids": tokenizer(rows["text"], truncation=True, max_length=max_length).input_ids
                    },
                    batched=True,
                    cache_file_name=str(folder / f"{name}.arrow"),
                    writer_batch_size=10_000,
                    desc=f"Tokenising {split} rows",
                    new_fingerprint=f"{self._key}-{name}",
                )

    def _sample(self, rows: "Dataset", name: str, split: str) -> "Dataset":
        """Draw the rows of a loader."""
        wanted = self.rows[name]
        if wanted is None:
            return rows
        if wanted > len(rows):
            raise UserError(
                f"--data.{name}_rows {wanted}: the {split} split of {self.dataset} has {len(rows)} rows; "
                "ask for at most that many, or null for all"
            )
        return rows.shuffle(seed=self.sample_seed).select(range(wanted))

    @property
    def _folder(self) -> Path:
        return sources.cache_folder() / "tokenised" / self._key

    # --- on every process ---------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Read what `prepare_data` made; `stage` makes no difference."""
        from datasets import Dataset

        if self.splits:
            return
        if self.trainer is not None:
            self._key = self.trainer.strategy.broadcast(self._key)
        self.splits = {
            name: Dataset.from_file(str(self._folder / f"{name}.arrow")) for name in ("train", "val", "test")
        }
        self.class_names = list(self.splits["train"].features["label"].names)
        batch = json.loads((self._folder / "batch.json").read_text())
        self.max_length, self._pad_token_id = batch["max_length"], batch["pad_token_id"]
        self.tokenizer_files = {file.name: file.read_text("utf-8") for file in (self._folder / "tokenizer").iterdir()}

    def texts(self, name: str, index: Tensor) -> tuple[list[str], list[int]]:
        """Return sentences and their tokens' number, of some rows of "train", "val" or "test".

        Args:
            name: Which.
            index: The rows' places in their split, shape (rows,), as batches have them.
        """
        table = self.splits[name].data
        places = table.column("index").to_numpy()
        order = places.argsort()
        found = pa.array(order[np.searchsorted(places, index.numpy(), sorter=order)])
        lengths = pc.list_value_length(table.column("input_ids"))
        return table.column("text").take(found).to_pylist(), lengths.take(found).to_pylist()

    @property
    def fingerprint(self) -> str:
        """A key made of everything that the tokenised rows depend on, their content included."""
        return self._key

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the training rows, in a new order each epoch."""
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the rows of `val_split`."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the test rows."""
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the rows to predict."""
        return self._loader(self.predict_split, self.eval_batch_size)

    def _loader(self, name: str, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        rows = self.splits[name].select_columns(["input_ids", "label", "index"])
        sampler = LengthGroupedSampler(
            pc.list_value_length(rows.data.column("input_ids")).to_numpy(),
            batch_size,
            shuffle=shuffle,
            group_by_length=self.group_by_length,
            seed=int(os.environ.get("PL_GLOBAL_SEED", "0")),  # set by seed_everything
            num_replicas=self.trainer.world_size if self.trainer else 1,
            rank=self.trainer.global_rank if self.trainer else 0,
            accumulate=self.trainer.accumulate_grad_batches if self.trainer else 1,
        )
        if shuffle:
            sampler.resumed = self._resumed
            sampler.set_epoch(self._resumed[0])  # workers fetch their first batches before Lightning tells the epoch
        return DataLoader(
            rows,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=partial(collate, pad_token_id=self._pad_token_id, lengths=self.padded_lengths),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_ignore_signals,
            generator=torch.Generator(),  # or each epoch would draw a number that dropout misses in a resumed run
        )

    @property
    def padded_lengths(self) -> list[int]:
        """Lengths that batches are padded to, rising; empty if to that of the longest row."""
        if self.padding == "longest":
            return []
        return [cast(int, self.max_length)] if self.padding == "max_length" else list(self.padding)

    def on_before_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        """Add each row's weight in the loss to a training batch: `weights`, shape (B,)."""
        if self.trainer is not None and self.trainer.training:
            sampler = self.trainer.train_dataloader.sampler  # type: ignore[union-attr]
            number = self.trainer.fit_loop.epoch_loop.batch_idx + 1
            if isinstance(sampler, LengthGroupedSampler):  # `--trainer.overfit_batches` replaces it
                batch["weights"] = sampler.weights(number, int(self.trainer.num_training_batches))
        return batch

    # --- in a checkpoint ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return where training stands: `epoch`, how many of its `batches` each rank has done, and what a step is."""
        if self.trainer is None:
            return {}
        loop = self.trainer.fit_loop
        done = cast(Any, loop.epoch_loop.batch_progress.current).processed
        epoch, ended = self.trainer.current_epoch, cast(Any, loop.epoch_progress.current).processed
        if done >= self.trainer.num_training_batches:
            epoch, done = epoch + 1, 0
        step = [self.batch_size * self.trainer.world_size, self.trainer.accumulate_grad_batches]
        return {"epoch": epoch, "batches": done, "step": step, "broken_off": ended > epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let training go on from there. Lightning forgets it (Lightning-AI/pytorch-lightning#20550, #21938).

        Raises:
            UserError: It is within an epoch, and steps have other rows now, or Lightning counts that epoch as ended.
        """
        if self.trainer is None or not self.trainer.training:
            return
        rows, accumulate = state_dict["step"]
        ranks = self.trainer.world_size
        if state_dict["broken_off"]:
            raise UserError(
                "--ckpt_path: it was written when the run ended within an epoch; go on from last.ckpt instead"
            )
        if state_dict["batches"] and (rows, accumulate) != (
            self.batch_size * ranks,
            self.trainer.accumulate_grad_batches,
        ):
            raise UserError(
                f"--data.batch_size {self.batch_size} on {ranks} devices, --trainer.accumulate_grad_batches "
                f"{self.trainer.accumulate_grad_batches}: the checkpoint was written within an epoch, with {rows} rows "
                f"a batch on all devices together and {accumulate} batches a step; set --data.batch_size "
                f"{max(1, rows // ranks)} --trainer.accumulate_grad_batches {accumulate}"
            )
        self._resumed = state_dict["epoch"], state_dict["batches"]


def _ignore_signals(worker: int) -> None:
    """Leave to the training process what to do when a terminal or SLURM sends a signal to all of them."""
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
