"""Parts of an encoder that stay as they are in training."""

from typing import TYPE_CHECKING

from torch import nn

from lit_bert.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def freeze_layers(model: "PreTrainedModel", number: int) -> None:
    """Freeze the embeddings and the first layers of a classifier, all parts of each.

    Raises:
        UserError: There are not so many layers, or they cannot be told apart.
    """
    base, most = model.base_model, model.config.num_hidden_layers
    if not 0 <= number <= most:
        raise UserError(f"--model.frozen_layers {number}: it must be between 0 and the encoder's {most}")
    modules = base.named_modules()
    lists = {name: part for name, part in modules if isinstance(part, nn.ModuleList) and len(part) == most}
    embeddings = [part for name, part in base.named_children() if "emb" in name]
    if not lists or not embeddings:
        raise UserError(f"--model.frozen_layers {number}: a {model.config.model_type} encoder has no layers of its own")
    first = next(iter(lists)).rpartition(".")[0]  # XLM has a list for each part of its layers
    layers = [part for name, parts in lists.items() if name.rpartition(".")[0] == first for part in parts[:number]]
    for part in (*embeddings, *layers):
        part.requires_grad_(False)
