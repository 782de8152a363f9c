"""The LightningDataModule: fetches, samples, tokenises and batches labelled sentences."""

import os
from typing import TYPE_CHECKING, Any, Literal, cast

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lit_bert.data import position, tokenized
from lit_bert.data.batching import LengthGroupedSampler, make_loader
from lit_bert.errors import UserError
from lit_bert.modeling import encoder
from lit_bert.training.checkpoint_io import Checkpoint

if TYPE_CHECKING:
    from datasets import Dataset


class TextClassificationDataModule(LightningDataModule):
    """Labelled sentences in three splits: by default Rotten Tomatoes, reviews whose sentiment is negative or positive.

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
        self._given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
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
        self.predict_split = predict_split
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.max_length = max_length
        self.padding = padding
        self.group_by_length = group_by_length
        self.num_workers = num_workers
        self.checkpoint: Checkpoint | None = None  # where the tokenizer comes from in place of `tokenizer`
        self.splits: dict[str, Dataset] = {}  # of "train", "val" and "test", after `setup`
        self.tokenizer_files: dict[str, str] = {}  # texts by name, after `setup`; checkpoints take them along
        self.fingerprint = ""  # a key of everything that the tokenised rows depend on, after `prepare_data`
        self._pad_token_id = 0
        self._position = (0, 0)
        self._train_digest = ""

    @property
    def class_names(self) -> list[str]:
        """Names of the classes: as given, or the data's own, which are fetched and read for it."""
        if self._given["class_names"] is None:
            self.prepare_data()
        return list(self._given["class_names"] or tokenized.read(self.fingerprint).class_names)

    def prepare_data(self) -> None:
        """Fetch, check, sample and tokenise, unless the cache has it; shows progress."""
        if self.fingerprint:  # it has been done in this process
            return
        tokenizer, limit = self._load_tokenizer()
        files = encoder.tokenizer_files(tokenizer)
        self.fingerprint = tokenized.prepare(
            self.dataset, {**self._given, "max_length": self.max_length}, tokenizer, files, limit
        )

    def _load_tokenizer(self) -> tuple[Any, int]:
        if self.checkpoint is None and self.tokenizer.endswith(".ckpt"):
            self.checkpoint = Checkpoint.read(self.tokenizer)
        if self.checkpoint is not None and self.checkpoint.tokenizer_files:
            files, config = self.checkpoint.tokenizer_files, self.checkpoint.encoder_config
            return encoder.tokenizer_from_files(files, config, f"--ckpt_path {self.checkpoint.path}")
        return encoder.load_tokenizer(encoder.find_encoder(self.tokenizer), f"--model.pretrained {self.tokenizer}")

    def setup(self, stage: str) -> None:
        """Read what `prepare_data` made; `stage` makes no difference."""
        self._position = (0, 0)
        if self.splits:
            return
        if self.trainer is not None:
            self.fingerprint = self.trainer.strategy.broadcast(self.fingerprint)
        content = tokenized.read(self.fingerprint)
        self.splits, self.tokenizer_files = content.splits, content.tokenizer_files
        self.max_length, self._pad_token_id = content.max_length, content.pad_token_id

    def texts(self, name: str, index: Tensor) -> tuple[list[str], list[int]]:
        """Return sentences and token counts of rows of "train", "val" or "test"; `index` (N,) is as batches have it."""
        return tokenized.texts(self.splits[name], index)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.predict_split, self.eval_batch_size)

    def _loader(self, name: str, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        trainer = self.trainer
        options: dict[str, Any] = {"shuffle": shuffle, "group_by_length": self.group_by_length, "seed": _seed()}
        if trainer is not None:
            options |= {"num_replicas": trainer.world_size, "rank": trainer.global_rank}
            options["accumulate"] = trainer.accumulate_grad_batches
        sampler = LengthGroupedSampler(tokenized.lengths(self.splits[name]), batch_size, **options)
        if shuffle:
            sampler.resumed = self._position
            sampler.set_epoch(self._position[0])  # workers fetch their first batches before Lightning tells the epoch
        rows = self.splits[name].select_columns(["input_ids", "label", "index"])
        return make_loader(rows, sampler, self._pad_token_id, self.padded_lengths, self.num_workers)

    @property
    def padded_lengths(self) -> list[int]:
        """Lengths that batches are padded to, rising; empty if to that of the longest row."""
        if self.padding == "longest":
            return []
        return [cast(int, self.max_length)] if self.padding == "max_length" else list(self.padding)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Add each row's weight in the loss to a training batch: `weights`, shape (B,)."""
        if self.trainer is not None and self.trainer.training:
            sampler = getattr(self.trainer.train_dataloader, "sampler", None)
            number = self.trainer.fit_loop.epoch_loop.batch_idx + 1
            if isinstance(sampler, LengthGroupedSampler):  # `--trainer.overfit_batches` replaces it
                batch["weights"] = sampler.weights(number, int(self.trainer.num_training_batches))
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return where training stands, for a checkpoint."""
        return position.position(self.trainer, self.batch_size, self._order()) if self.trainer else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let training go on from there. Lightning forgets it (Lightning-AI/pytorch-lightning#20550, #21938)."""
        if self.trainer is not None and self.trainer.training:
            self._position = position.resume(self.trainer, self.batch_size, self._order(), state_dict)

    def _order(self) -> dict[str, Any]:
        """Return what decides which training rows come when."""
        self._train_digest = self._train_digest or tokenized.digest(self.splits["train"])
        return {"rows": self._train_digest, "seed": _seed(), "grouping": self.group_by_length}


def _seed() -> int:
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))  # set by seed_everything
