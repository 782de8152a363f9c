"""What a run says beside its progress bar and its tables: lines that begin with a topic."""

import logging
import re
import sys
import warnings

from lightning.pytorch.utilities import rank_zero_only


@rank_zero_only
def status(topic: str, text: str, err: bool = False) -> None:
    """Print a line on rank 0, on a topic of at most 8 letters; `err` leaves standard output to a result."""
    print(f"{topic:8} {text}", file=sys.stderr if err else sys.stdout, flush=True)


def silence_chatter() -> None:
    """Drop what other libraries say that a user of this project cannot act on; what was asked for is still printed."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_is_news)
    for name in (
        "lightning.fabric.utilities.seed",
        "lightning.fabric.utilities.distributed",
        "lightning.pytorch.accelerators.cuda",
        "lightning.pytorch.trainer.connectors.checkpoint_connector",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*callbacks used to create the checkpoint need to be provided.*",  # they mean nothing to an evaluation
        ".*does not have many workers.*",  # batches this small are made faster in the training process
        ".*isinstance.treespec, LeafSpec.*",
        ".*Checkpoint directory .* exists and is not empty.*",  # it does when a run is resumed
        ".*The dirpath has changed from .*",  # it has when a checkpoint was moved
        ".*The number of training batches .* is smaller than the logging interval.*",
        ".*your dataloader is not resumable.*",  # the data module is
        ".*WeightAveraging callback, but loading a checkpoint outside.*",  # the average is what is loaded
        ".*`Trainer.barebones=True.` is configured.*",
        ".*SWA is currently only supported every epoch.*",  # it takes the place of any schedule
        ".*when logging on epoch level in distributed setting.*",  # every rank logs the same value
        ".*No positive samples in targets.*",  # of a class without rows, of which no curve is drawn
        ".*Glyph .* missing from font.*",  # a class name in a figure may have one
    ):
        warnings.filterwarnings("ignore", message)


_CHATTER = re.compile(
    r"(GPU|TPU|HPU) available|Using \S+ Automatic Mixed Precision|Using default `ModelCheckpoint`|.*Tip: |"
    r"Initializing distributed|distributed_backend=|All distributed processes|-{20}|\n?$|"
    r"Restor(ing|ed) |Loaded model weights|`Trainer\.fit` stopped|Running in `fast_dev_run`|Enabling DDP|"
    r"Found current_model_state|Swapping scheduler|You are using a CUDA device|Loading `train_dataloader`|"
    r"Trainer already configured|.*LOCAL_RANK"
)


def _is_news(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or not _CHATTER.match(record.getMessage())
