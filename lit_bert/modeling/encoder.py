"""Encoders of `transformers`: found by name, checked, and loaded without ever running code that comes with them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_bert.data import hub, packaged
from lit_bert.errors import UserError, reason
from lit_bert.modeling.classes import set_class_names
from lit_bert.modeling.pooling import add_mean_layer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_PADDING_COUNTS = ("convbert", "fnet", "mobilebert", "nystromformer", "yoso")
"""Types of encoders that answer a text otherwise when it is padded: they mix neighbours, or have no mask."""

_NOT_FOR_TEXTS = ("modernvbert", "mra", "perceiver", "tapas", "ultravbert")
"""Types of models that take images, tables or bytes, or that compute nothing without kernels of their own."""

_HEAD = ("auto_map", "function_to_apply", "problem_type")
"""Entries of a config for code, and for heads of another kind: a pipeline would not take the softmax."""

_LARGEST = {"num_hidden_layers": 1_000, "hidden_size": 100_000, "vocab_size": 10_000_000, "num_labels": 100_000}
"""Sizes beyond which a config is taken for damaged: to build such an encoder would take minutes, or all memory."""


def find_encoder(name: str, for_tokenizer: bool = False) -> Path:
    """Return a folder with an encoder's config, tokenizer and weights, downloaded if need be; or its tokenizer alone.

    `name` is "packaged", "packaged-base", a local folder, or a Hub model id, with "@" and a revision if it is pinned.
    """
    if name in (packaged.PACKAGED, packaged.PACKAGED_BASE):
        return packaged.packaged_encoder(name)
    path = Path(name).expanduser()
    if path.suffix == ".ckpt":
        problem = "give a checkpoint with --ckpt_path"
    elif path.is_file():
        problem = "this is a file; give the folder it is in"
    elif not path.is_dir():
        if hub.is_hub_id(name):
            return hub.fetch_from_hub(name, "model")
        problem = "there is no such folder"
    elif for_tokenizer and hub.has_tokenizer(path):
        return path
    elif not (path / "config.json").is_file():
        problem = "the folder has no config.json, so it holds no transformers model"
    elif not hub.has_weights(path):
        problem = "the folder has a config.json but no weights (model.safetensors); save_pretrained writes them"
    elif not hub.has_tokenizer(path):
        problem = "the folder has a model but no tokenizer (tokenizer.json or vocab.txt); save_pretrained writes one"
    else:
        return path
    raise UserError(f"--model.pretrained {name}: {problem}")


def load_config(folder: Path, source: str) -> "PreTrainedConfig":
    """Return the config of the encoder in a folder; `source` is how a message begins: "--model.pretrained packaged"."""
    try:
        return make_config(json.loads((folder / "config.json").read_text("utf-8")), source)
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
        problem = f"its config.json names the model type {model_type!r}, which transformers does not have"
        raise UserError(f"{source}: {problem}; code that comes with a model is never run")
    for name, most in _LARGEST.items():
        if isinstance(value := content.get(name), int) and value > most:
            raise UserError(f"{source}: its config.json says {name} {value:,}; no encoder has more than {most:,}")
    if model_type in _PADDING_COUNTS:
        problem = f"a {model_type} model answers otherwise when a text is padded"
        raise UserError(f"{source}: {problem}, so that its predictions depend on their batch; take another encoder")
    if model_type in _NOT_FOR_TEXTS:
        raise UserError(f"{source}: a {model_type} model is not for texts alone; give a BERT-like one")
    config = AutoConfig.for_model(**{name: value for name, value in content.items() if name not in _HEAD})
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


def make_classifier(
    pretrained: str, class_names: Sequence[str] | None, pooling: str, config: Mapping[str, Any] | None
) -> tuple["PreTrainedModel", bool]:
    """Return a classifier as `BertClassifier` is told to make it, and whether its head is new and to be trained."""
    if config is not None:
        return build_classifier(config, "encoder_config"), False
    model, head_is_new = load_classifier(find_encoder(pretrained), f"--model.pretrained {pretrained}", class_names)
    if pooling == "mean" and head_is_new:  # a classifier that is trained on has its own
        add_mean_layer(model, pretrained)
    return model, head_is_new


def load_classifier(
    folder: Path, source: str, class_names: Sequence[str] | None = None
) -> tuple["PreTrainedModel", bool]:
    """Return an encoder with a head for these classes, or the model's own, and whether the head is a new one."""
    config = load_config(folder, source)
    if class_names is not None:
        set_class_names(config, class_names)
    try:
        model, loading = _from_pretrained(config, folder, local_files_only=True, ignore_mismatched_sizes=True)
    except Exception as error:  # whatever a damaged file makes safetensors, pickle or transformers raise
        raise UserError(f"{source}: cannot be loaded: {reason(error)}") from error
    new = [key for key in loading["missing_keys"] if ".pooler." not in key]
    new += [str(key[0] if isinstance(key, tuple) else key) for key in loading["mismatched_keys"]]
    if encoder := [key for key in new if key.startswith(f"{model.base_model_prefix}.")]:
        fault = f"{len(encoder)} missing, among them {encoder[0]}"
        raise UserError(f"{source}: its weights are not those of a {config.model_type} encoder ({fault})")
    return model, bool(new)


def restore_classifier(config: Mapping[str, Any], state_dict: Mapping[str, Tensor], source: str) -> "PreTrainedModel":
    """Return the classifier of a checkpoint, in evaluation mode, its weights mapped from the file."""
    weights = {name.removeprefix("model."): value for name, value in state_dict.items() if name.startswith("model.")}
    model, loading = _from_pretrained(make_config(config, source), None, state_dict=weights)
    if wrong := [*loading["missing_keys"], *loading["unexpected_keys"]]:
        raise UserError(f"{source}: its weights are not those of the model that it describes ({len(wrong)} differ)")
    return model


def _from_pretrained(
    config: "PreTrainedConfig", folder: Path | None, **options: Any
) -> tuple["PreTrainedModel", dict[str, Any]]:
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as CLASSES

    options |= {"config": config, "dtype": torch.float32, "output_loading_info": True}
    with quiet_transformers():
        return CLASSES[type(config)].from_pretrained(folder, **options)  # type: ignore[no-any-return]


def build_classifier(config: Mapping[str, Any], source: str) -> "PreTrainedModel":
    """Return a classifier with random weights, to be replaced by those of a checkpoint."""
    from transformers import AutoModelForSequenceClassification

    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        return AutoModelForSequenceClassification.from_config(make_config(config, source), dtype=torch.float32)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from showing bars for tensors, and from warning of a classification head that is new."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def check_start(stored: str, given: str) -> None:
    """Check that a checkpoint was fine-tuned from the encoder that is named beside it."""
    if stored != given:
        problem = f"the checkpoint was fine-tuned from {stored}, not from --model.pretrained {given}"
        raise UserError(f"--ckpt_path: {problem}; leave out one of the two")
