"""TensorBoard's HParams page: what is tuned first, and hyperparameters that differ from their defaults."""

import inspect
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.core.mixins.hparams_mixin import HyperparametersMixin

FIRST = (
    *("learning_rate", "max_epochs", "batch_size", "train_rows", "seed", "pretrained", "dataset"),
    *("warmup_ratio", "weight_decay", "class_weights", "max_length", "precision"),
)
"""Columns that every run has, in their order; others follow if a run sets them to another value than the default.

Callbacks add the hyperparameters that they save.
"""

_TEXTS = ("encoder_config", "class_names", "tokenizer")


def hyperparameters(trainer: Trainer, module: Any, data: Any, seed: int | None) -> dict[str, Any]:
    """Return values by column; `train_rows` is how many rows there were."""
    own = {"max_epochs": trainer.max_epochs, "seed": seed, "precision": trainer.precision}
    values = {**data.hparams, **module.hparams, **own, "train_rows": len(data.splits["train"])}
    usual: dict[str, Any] = {}
    for kind in (type(data), type(module)):
        usual |= {name: option.default for name, option in inspect.signature(kind).parameters.items()}
    others = [name for name in values if name not in (*FIRST, *_TEXTS) and values[name] != usual.get(name)]
    found = {name: values[name] for name in (*FIRST, *others) if name in values}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        found |= callback.hparams if isinstance(callback, HyperparametersMixin) else {}
    return found
