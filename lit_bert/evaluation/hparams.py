"""TensorBoard's HParams page: what is tuned first, and hyperparameters that differ from their defaults."""

import inspect
from dataclasses import fields
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.core.mixins.hparams_mixin import HyperparametersMixin

from lit_bert.data.options import DataOptions
from lit_bert.datamodule import TextClassificationDataModule
from lit_bert.module import BertClassifier

FIRST = (
    *("learning_rate", "max_epochs", "batch_size", "train_rows", "seed", "pretrained", "dataset"),
    *("warmup_ratio", "weight_decay", "class_weights", "max_length", "precision"),
)
"""Columns that every run has, in their order; others follow if a run sets them to another value than the default."""

_TEXTS = ("encoder_config", "class_names", "tokenizer")


def hyperparameters(
    trainer: Trainer, module: BertClassifier, data: TextClassificationDataModule, seed: int | None
) -> dict[str, Any]:
    """Return values by column, those of callbacks included; `train_rows` is how many rows there were."""
    own = {"max_epochs": trainer.max_epochs, "seed": seed, "precision": trainer.precision}
    values = {**data.hparams, **module.hparams, **own, "train_rows": len(data.splits["train"])}
    options = {**inspect.signature(type(data)).parameters, **inspect.signature(type(module)).parameters}
    usual = {field.name: field.default for field in fields(DataOptions)}
    usual |= {name: option.default for name, option in options.items()}
    others = [name for name in values if name not in (*FIRST, *_TEXTS) and values[name] != usual.get(name)]
    found = {name: values[name] for name in (*FIRST, *others) if name in values}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        found |= callback.hparams if isinstance(callback, HyperparametersMixin) else {}
    return found
