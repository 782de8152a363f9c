"""Models as the tests read, change and compare them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import pipeline

from lit_bert.modeling.checkpoint import read_safely

Weights = dict[str, torch.Tensor]


def weights_of(module: torch.nn.Module) -> Weights:
    """Return a copy of a module's weights and buffers."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def close(one: Weights, other: Weights) -> None:
    """Assert that weights which were trained in another way are equal but for rounding.

    The loss does not depend on the keys' biases: what Adam makes of their gradients is rounding alone.
    """
    for name, value in one.items():
        if "key.bias" not in name:
            torch.testing.assert_close(other[name], value, atol=2e-5, rtol=1e-4, msg=name)


def changed(path: Path, to: Path | str, model: Any = None, data: Any = None, **content: Any) -> Path:
    """Write a checkpoint with other hyperparameters of the model or the data, or with other content."""
    found = read_safely(path)
    found["hyper_parameters"] |= model or {}
    found["datamodule_hyper_parameters"] |= data or {}
    torch.save({**found, **content}, to)
    return Path(to)


def piped(folder: Path | str, texts: Sequence[str]) -> torch.Tensor:
    """Return the probabilities of `neg` and `pos` that `transformers` alone finds."""
    classify = pipeline("text-classification", str(folder), top_k=None, batch_size=4, device="cpu")
    rows = [{of["label"]: of["score"] for of in row} for row in classify(list(texts))]
    return torch.tensor([[row["neg"], row["pos"]] for row in rows])
