"""The LightningDataModule: fetches, samples, tokenises and batches labelled sentences."""

from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lit_bert.data import position, tokenized
from lit_bert.data.collate import make_loader, padded_lengths
from lit_bert.data.options import DataOptions, check_batching
from lit_bert.data.sampler import LengthGroupedSampler
from lit_bert.modeling.tokenizer import find_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset


class TextClassificationDataModule(LightningDataModule):
    """Labelled texts in three splits: by default Rotten Tomatoes, reviews whose sentiment is negative or positive.

    Fetching, checking, sampling and tokenising happen once per node, in `prepare_data`; the result is kept in the
    cache folder under a key made of everything it depends on, and `setup` only reads it.

    Args:
        dataset: File (CSV, TSV, JSON, JSONL or Parquet) or folder of such files, Hub data set id (pinned by "@" and a
            revision), "packaged" (Rotten Tomatoes from the Python package index), or a file for each split:
            `--data.dataset.train FILE`, `.validation` and `.test`.
        tokenizer: Hub model id, local folder, checkpoint file, "packaged" or "packaged-base".
        batch_size: Training rows per batch, on each device.
        eval_batch_size: Rows per batch of validation, test and prediction, on each device.
        padding: "longest" pads to the longest row of each batch, "max_length" pads every row to `max_length`; a rising
            list such as [16, 24, 32, 48, 80] pads to the first length that fits, so that batches have few shapes. Null
            takes such a list on a GPU, and "longest" elsewhere.
        group_by_length: Whether rows of about equal length share a batch, which saves padding.
        num_workers: Processes that assemble batches, per device; 0 uses the training process.
        predict_split: Which rows `predict` reads: those drawn for "train", "val" or "test".
        rows: Other options of `DataOptions`, such as `text_column`, `train_rows` and `max_length`.

    Raises:
        UserError: A value is out of range; later, a fault in the data, named by file and row.
    """

    def __init__(
        self,
        dataset: str | dict[str, str] = DataOptions.dataset,
        tokenizer: str = "google-bert/bert-base-cased",
        batch_size: int = 32,
        eval_batch_size: int = 64,
        padding: Literal["longest", "max_length"] | list[int] | None = None,
        group_by_length: bool = True,
        num_workers: int = 0,
        predict_split: Literal["train", "val", "test"] = "test",
        **rows: Any,
    ) -> None:
        super().__init__()
        check_batching(batch_size, eval_batch_size, num_workers, padding)
        self.save_hyperparameters(logger=False)  # names shared with the module's would clash there
        self.options = DataOptions(dataset, **rows)
        self.dataset, self.tokenizer, self.predict_split = dataset, tokenizer, predict_split
        self.batch_size, self.eval_batch_size, self.padding = batch_size, eval_batch_size, padding
        self.group_by_length, self.num_workers = group_by_length, num_workers
        self.fingerprint = ""  # a key of everything that the tokenised rows depend on, after `prepare_data`
        self.content = tokenized.TokenizedSplits({}, [], 0, 0, {}, {}, "")  # what it says after `setup`
        self._start = (0, 0)  # epoch and batch that training goes on from
        self._digests: dict[str, str] = {}

    @property
    def class_names(self) -> list[str]:
        """Names of the classes: as given, or the data's own, which are fetched and read for it."""
        if names := self.options.class_names or self.content.class_names:
            return list(names)
        self.prepare_data()
        return list(tokenized.read(self.fingerprint).class_names)

    @property
    def splits(self) -> dict[str, "Dataset"]:
        """Tokenised rows of "train", "val", "test", and those without a label, after `setup`: see `TokenizedSplits`."""
        return self.content.splits

    @property
    def tokenizer_files(self) -> dict[str, str]:
        """Texts of the tokenizer's files by name, after `setup`; checkpoints take them along."""
        return self.content.tokenizer_files

    def prepare_data(self) -> None:
        """Fetch, check, sample and tokenise, unless the cache has it; shows progress."""
        if not self.fingerprint:  # it has not been done in this process
            self.fingerprint = tokenized.prepare(self.options, find_tokenizer(self.tokenizer))

    def setup(self, stage: str) -> None:
        """Read what `prepare_data` made; `stage` makes no difference."""
        self._start = (0, 0)
        if self.trainer is not None:
            self.fingerprint = self.trainer.strategy.broadcast(self.fingerprint)
        self.content = self.content if self.splits else tokenized.read(self.fingerprint)

    def texts(self, name: str, index: Tensor) -> tuple[list[str], list[int]]:
        """Return sentences and token counts of rows of "train", "val" or "test"; `index` (N,) is as batches have it."""
        return tokenized.texts(self.rows(name), index)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader("predict", self.eval_batch_size)

    def rows(self, name: str) -> "Dataset":
        """Return the rows of "train", "val" or "test", or those that "predict" reads.

        Rows without a label are among those to train on, for which their label is -100, and to predict.
        """
        split = self.predict_split if name == "predict" else name
        return tokenized.rows(self.splits, split, with_unlabelled=name in ("train", "predict"))

    def _loader(self, name: str, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        trainer, rows = self.trainer, self.rows(name)
        ranks = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        steps = (trainer.accumulate_grad_batches, trainer.limit_train_batches) if trainer else (1, 1.0)
        order = (shuffle, self.group_by_length, position.seed())
        start = self._start if shuffle else (0, 0)
        sampler = LengthGroupedSampler(tokenized.lengths(rows), batch_size, *order, *ranks, *steps, start)
        on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
        padded_to = padded_lengths(self.padding, self.content.max_length, on_gpu)
        return make_loader(rows, sampler, self.content.pad_token_id, padded_to, self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """Return where training stands, for a checkpoint."""
        if self.trainer is None:
            return {}
        return position.position(
            self.trainer, self.batch_size, self._order(), self.content.held_out, self._digest("val")
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let training go on from there. Lightning forgets it (Lightning-AI/pytorch-lightning#20550, #21938)."""
        position.check_held_out(state_dict, self.content.held_out, self.dataset)
        if self.trainer is not None and self.trainer.training:
            order, val = self._order(), self._digest("val")
            self._start = position.resume(self.trainer, self.batch_size, order, val, state_dict)

    def _order(self) -> dict[str, Any]:
        """Return what decides which training rows come when."""
        return position.order(self._digest("train"), self.group_by_length)

    def _digest(self, split: str) -> str:
        if split not in self._digests:
            self._digests[split] = tokenized.digest(self.rows(split)) if split in self.splits else ""
        return self._digests[split]
