"""What `transformers` makes of a folder or a checkpoint: a config, a tokenizer, a classifier."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lit_bert.errors import UserError


def config(folder: Path, called: str) -> Any:
    """Return a model's config.

    Args:
        folder: Where it is.
        called: How a message begins, such as "--model.pretrained packaged".

    Raises:
        UserError: It is damaged, needs code that comes with it, or the model is no encoder: that has a head for masked
            words, and one for classes.
    """
    from transformers import AutoConfig, PreTrainedConfig
    from transformers.models.auto import modeling_auto

    try:
        described, _ = PreTrainedConfig.get_config_dict(folder, local_files_only=True)
        _refuse_unknown_type(described, called)
        found = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # a damaged file makes transformers raise many things
        raise UserError(f"{called}: its config.json cannot be used: {_reason(error)}") from error
    _drop_code(found)
    kinds = (
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )
    if any(found.model_type not in kind for kind in kinds) or found.is_encoder_decoder:
        raise UserError(f"{called}: a {found.model_type} model is not an encoder; give a BERT-like one")
    return found


def _refuse_unknown_type(described: Any, called: str) -> None:
    """Refuse a model that `transformers` does not have: it would have to come with code of its own.

    Left to itself, transformers asks standard input whether to run that code.
    """
    from transformers import CONFIG_MAPPING

    kind = described.get("model_type") if isinstance(described, dict) else None
    if kind is not None and kind not in CONFIG_MAPPING:
        raise UserError(
            f"{called}: its config.json names the model type {kind!r}, which transformers does not have; code that "
            "comes with a model is never run"
        )


def _drop_code(config: Any) -> None:
    """Forget what a config says of code: classes beside it, and attention kernels to fetch from the Hub."""
    if hasattr(config, "auto_map"):
        del config.auto_map
    if config._attn_implementation not in (None, "eager", "sdpa"):
        config._attn_implementation = None


def tokenizer(folder: Path, called: str) -> tuple[Any, int]:
    """Return a tokenizer that neither cuts nor pads on its own, and the most tokens that its encoder takes.

    Args:
        folder: Where both are.
        called: How a message begins, such as "--model.pretrained packaged".

    Raises:
        UserError: It is damaged, or has tokens that the encoder does not know.
    """
    from transformers import AutoTokenizer

    encoder = config(folder, called)
    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        found.backend_tokenizer.no_truncation()
        found.backend_tokenizer.no_padding()
    except Exception as error:
        raise UserError(f"{called}: its tokenizer cannot be used: {_reason(error)}") from error
    if len(found) > encoder.vocab_size:
        raise UserError(
            f"{called}: its tokenizer has {len(found)} tokens, its encoder {encoder.vocab_size}; "
            "they do not belong together"
        )
    positions = getattr(encoder, "max_position_embeddings", found.model_max_length)
    if "roberta" in encoder.model_type or encoder.model_type in ("camembert", "mpnet"):
        positions -= encoder.pad_token_id + 1  # these count positions from there
    return found, min(found.model_max_length, positions)


def classifier(folder: Path, called: str, class_names: list[str] | None, trained: bool) -> Any:
    """Return an encoder with a classification head, in float32 and evaluation mode.

    Args:
        folder: Where it is.
        called: How a message begins, such as "--model.pretrained packaged".
        class_names: Names of the classes, in the order of their numbers; None takes the model's own.
        trained: Whether it must come with the head; if not, that may be a new one.

    Raises:
        UserError: It is damaged, lacks weights, or lacks the head that it must have.
    """
    from transformers import AutoModelForSequenceClassification

    encoder = config(folder, called)
    if class_names is not None:
        encoder.num_labels = len(class_names)
        encoder.id2label = dict(enumerate(class_names))
        encoder.label2id = {name: number for number, name in enumerate(class_names)}
    try:
        with quietly():
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                folder,
                config=encoder,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # whatever a damaged file makes safetensors, pickle or transformers raise
        raise UserError(f"{called}: cannot be loaded: {_reason(error)}") from error
    fresh = [key for key in loading["missing_keys"] if ".pooler." not in key]
    fresh += [str(key[0] if isinstance(key, tuple) else key) for key in loading["mismatched_keys"]]
    body = [key for key in fresh if key.startswith(f"{model.base_model_prefix}.")]
    if body:
        raise UserError(
            f"{called}: its weights are not those of a {encoder.model_type} encoder "
            f"({len(body)} missing, among them {body[0]})"
        )
    if fresh and trained:
        raise UserError(
            f"{called}: it has no trained classifier for {', '.join(encoder.id2label.values())}; "
            "give a fine-tuned checkpoint with --ckpt_path"
        )
    return model


def restored(checkpoint: dict[str, Any]) -> Any:
    """Return the classifier of what `checkpoints.read` returned, in evaluation mode, its weights mapped from the file.

    Raises:
        UserError: Its weights are not those of the model that it describes, or transformers does not have that model.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig

    described = json.loads(checkpoint["encoder"]["config.json"])
    _refuse_unknown_type(described, "--ckpt_path")
    encoder = AutoConfig.for_model(**described)
    _drop_code(encoder)
    weights = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
    with quietly():
        model, loading = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(encoder)].from_pretrained(
            None, config=encoder, state_dict=weights, dtype=torch.float32, output_loading_info=True
        )
    if wrong := [*loading["missing_keys"], *loading["unexpected_keys"]]:
        raise UserError(f"--ckpt_path: its weights are not those of the model that it describes ({len(wrong)} differ)")
    return model


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers from showing bars for tensors, and from warning of a classifier that has to be new."""
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


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
