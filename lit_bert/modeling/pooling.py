"""Mean pooling for a BERT, within the architecture that `transformers` has."""

import copy
from typing import Any

import torch

from lit_bert.errors import UserError

SCALE = 10.0
"""How much more the mean of all tokens weighs, at first, than the first token itself."""


def add_mean_layer(model: Any, source: str) -> None:
    """Add a layer to a BERT classifier of which the first token is, to begin with, the mean of all tokens.

    Queries and keys are 0, so that a token attends to all alike; values pass as they are, and the feed-forward part
    adds nothing. The outcome is normalised, and trained on, like any other layer. Checkpoints and exported folders hold
    an ordinary BERT of one layer more.
    """
    config = model.config
    if config.model_type != "bert":
        raise UserError(f"--model.pooling mean: {source} is a {config.model_type} model, and only a BERT can have it")
    layers = model.base_model.encoder.layer
    layer = copy.deepcopy(layers[-1])
    attention, feed_forward = layer.attention, layer.output
    with torch.no_grad():
        for part in (attention.self.query, attention.self.key, feed_forward.dense):
            part.weight.zero_()
            part.bias.zero_()
        for part, scale in ((attention.self.value, 1.0), (attention.output.dense, SCALE)):
            part.weight.copy_(torch.eye(config.hidden_size) * scale)
            part.bias.zero_()
        for part in (attention.output.LayerNorm, feed_forward.LayerNorm):
            part.weight.fill_(1.0)
            part.bias.zero_()
    layers.append(layer)
    config.num_hidden_layers = len(layers)
