"""Configs of encoders, read without running or fetching the code that they may name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_bert.errors import UserError, reason

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_LARGEST = {"num_hidden_layers": 1_000, "hidden_size": 100_000, "vocab_size": 10_000_000, "num_labels": 100_000}
"""Sizes beyond which a config is taken for damaged: to build such an encoder would take minutes, or all memory."""


def load_config(folder: Path, source: str) -> "PreTrainedConfig":
    """Return the config of the encoder in a folder; `source` is how a message begins: "--model.pretrained packaged"."""
    try:
        content = json.loads((folder / "config.json").read_text("utf-8"))
        if not isinstance(content, dict) or "model_type" not in content:
            raise ValueError("it names no model_type")
        return make_config(content, source)
    except UserError:
        raise
    except Exception as error:  # a damaged file makes transformers raise many things
        raise UserError(f"{source}: its config.json cannot be used: {reason(error)}") from error


def make_config(content: Mapping[str, Any], source: str) -> "PreTrainedConfig":
    """Return a config from the content of a config.json, less the code and the attention kernels that it may name."""
    from transformers import CONFIG_MAPPING, AutoConfig
    from transformers.models.auto import modeling_auto

    model_type = content.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise UserError(
            f"{source}: its config.json names the model type {model_type!r}, which transformers does not have; code "
            "that comes with a model is never run"
        )
    for name, most in _LARGEST.items():
        if isinstance(value := content.get(name), int) and value > most:
            raise UserError(f"{source}: its config.json says {name} {value:,}; no encoder has more than {most:,}")
    config = AutoConfig.for_model(**{name: value for name, value in content.items() if name != "auto_map"})
    if config._attn_implementation not in (None, "eager", "sdpa"):
        config._attn_implementation = None
    masked_lm = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    classifiers = modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    if model_type not in masked_lm or model_type not in classifiers or config.is_encoder_decoder:
        raise UserError(f"{source}: a {model_type} model is not an encoder; give a BERT-like one")
    return config


def config_content(config: "PreTrainedConfig") -> dict[str, Any]:
    """Return a config as plain values, as config.json has them."""
    content: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return content
