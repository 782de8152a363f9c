"""Encoders of `transformers`: found by name, checked, and loaded without ever running code that comes with them."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_bert.data import hub, packaged
from lit_bert.errors import UserError, reason
from lit_bert.modeling.checkpoint import Checkpoint
from lit_bert.modeling.classes import set_class_names
from lit_bert.modeling.config import config_content as config_content
from lit_bert.modeling.config import load_config as load_config
from lit_bert.modeling.config import make_config
from lit_bert.modeling.pooling import add_mean_layer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_OFFSET_POSITIONS = {
    *("camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm"),
    *("xlm-roberta", "xlm-roberta-xl", "xmod"),
}
"""Types of encoders that count positions from after the padding token's number, and so take fewer tokens."""


def find_encoder(name: str) -> Path:
    """Return a folder with an encoder's config, tokenizer and weights, downloaded if need be.

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
    elif not (path / "config.json").is_file():
        problem = "the folder has no config.json, so it holds no transformers model"
    elif not hub.has_weights(path):
        problem = "the folder has a config.json but no weights (model.safetensors); save_pretrained writes them"
    elif not hub.has_tokenizer(path):
        problem = "the folder has a model but no tokenizer (tokenizer.json or vocab.txt); save_pretrained writes one"
    else:
        return path
    raise UserError(f"--model.pretrained {name}: {problem}")


def find_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of an encoder, named as for `find_encoder`, or of a checkpoint file.

    It neither truncates nor pads on its own, and its `model_max_length` is how many tokens the encoder takes at most.
    """
    if not name.endswith(".ckpt"):
        return load_tokenizer(find_encoder(name), f"--model.pretrained {name}")[0]
    checkpoint = Checkpoint.read(name)
    if not checkpoint.tokenizer_files:
        problem = "it has no tokenizer, because it was trained on another data module; name one with --data.tokenizer"
        raise UserError(f"--ckpt_path {name}: {problem}")
    return tokenizer_from_files(checkpoint.tokenizer_files, checkpoint.encoder_config, f"--ckpt_path {name}")[0]


def load_tokenizer(
    folder: Path, source: str, config: "PreTrainedConfig | None" = None
) -> tuple["PreTrainedTokenizerBase", int]:
    """Return a folder's tokenizer as `find_tokenizer` does, and its `model_max_length`.

    `config` is the encoder's, if it is not in the folder.
    """
    from transformers import AutoTokenizer

    config = config or load_config(folder, source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False)
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    except Exception as error:
        raise UserError(f"{source}: its tokenizer cannot be used: {reason(error)}") from error
    if tokenizer.pad_token_id is None:
        raise UserError(f"{source}: its tokenizer has no padding token; set one with save_pretrained")
    tokens = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=0))  # ids may have gaps
    if tokens > config.vocab_size:
        problem = f"its tokenizer has {tokens} tokens, its encoder {config.vocab_size}; they do not belong together"
        raise UserError(f"{source}: {problem}")
    positions = getattr(config, "max_position_embeddings", tokenizer.model_max_length)
    if config.model_type in _OFFSET_POSITIONS:
        positions -= config.pad_token_id + 1
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return tokenizer, tokenizer.model_max_length


def tokenizer_from_files(
    files: Mapping[str, str], config: Mapping[str, Any], source: str
) -> tuple["PreTrainedTokenizerBase", int]:
    """Return what `load_tokenizer` does, of the texts of a tokenizer's files by name, as a checkpoint holds them."""
    with tempfile.TemporaryDirectory() as folder:  # transformers reads nothing but files
        for name, text in files.items():
            (Path(folder) / Path(name).name).write_text(text, encoding="utf-8")
        return load_tokenizer(Path(folder), source, make_config(config, source))


def tokenizer_files(tokenizer: "PreTrainedTokenizerBase") -> dict[str, str]:
    """Return the texts of a tokenizer's files by name."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            tokenizer.save_pretrained(folder)
        except Exception as error:  # the tokenizers library raises no other
            problem = f"a tokenizer cannot be written there ({reason(error)})"
            raise UserError(f"{folder}: {problem}; free some space, or set TMPDIR to another folder") from error
        return {file.name: file.read_text("utf-8") for file in sorted(Path(folder).iterdir())}


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
    """Return an encoder with a classification head, in float32 and evaluation mode, and whether the head is a new one.

    `class_names` are in the order of the classes' numbers; None takes the model's own.
    """
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
        problem = f"its weights are not those of a {config.model_type} encoder"
        raise UserError(f"{source}: {problem} ({len(encoder)} missing, among them {encoder[0]})")
    return model, bool(new)


def restore_classifier(config: Mapping[str, Any], state_dict: Mapping[str, Tensor], source: str) -> "PreTrainedModel":
    """Return the classifier of a checkpoint, in evaluation mode, its weights mapped from the file.

    `config` is the encoder's, and of `state_dict` names outside "model." are passed over.
    """
    weights = {name.removeprefix("model."): value for name, value in state_dict.items() if name.startswith("model.")}
    model, loading = _from_pretrained(make_config(config, source), None, state_dict=weights)
    if wrong := [*loading["missing_keys"], *loading["unexpected_keys"]]:
        raise UserError(f"{source}: its weights are not those of the model that it describes ({len(wrong)} differ)")
    return model


def _from_pretrained(
    config: "PreTrainedConfig", folder: Path | None, **options: Any
) -> tuple["PreTrainedModel", dict[str, Any]]:
    """Return the classifier that a config describes, and which weights were missing, unexpected or mismatched."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as CLASSES

    with quiet_transformers():
        model, loading = CLASSES[type(config)].from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True, **options
        )
    return model, loading


def build_classifier(config: Mapping[str, Any], source: str) -> "PreTrainedModel":
    """Return a classifier with random weights, to be replaced by those of a checkpoint."""
    from transformers import AutoModelForSequenceClassification

    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        return AutoModelForSequenceClassification.from_config(make_config(config, source), dtype=torch.float32)


def freeze_layers(model: "PreTrainedModel", number: int) -> None:
    """Leave the embeddings and the first layers of a classifier as they are in training."""
    base, most = model.base_model, model.config.num_hidden_layers
    if not 0 <= number <= most:
        raise UserError(f"--model.frozen_layers {number}: it must be between 0 and the encoder's {most}")
    lists = (part for part in base.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == most)
    layers, embeddings = next(lists, None), dict(base.named_children()).get("embeddings")
    if layers is None or embeddings is None:
        raise UserError(f"--model.frozen_layers {number}: a {model.config.model_type} encoder has no layers of its own")
    for part in (embeddings, *layers[:number]):
        part.requires_grad_(False)


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
        raise UserError(
            f"--ckpt_path: the checkpoint was fine-tuned from {stored}, not from --model.pretrained {given}; leave out "
            "one of the two"
        )
