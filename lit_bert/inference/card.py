"""The model card of an exported folder: what the model is, how it was made, how good it is, how to use it."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yaml import YAMLError

from lit_bert.data.hub import is_hub_id
from lit_bert.data.packaged import PACKAGED, PACKAGED_BASE
from lit_bert.modeling.checkpoint import Checkpoint
from lit_bert.module import BertClassifier
from lit_bert.run.hardware import package_version
from lit_bert.run.recipe import ROTTEN_TOMATOES

_ENCODERS = {
    PACKAGED: "sentence-transformers/all-MiniLM-L6-v2",
    PACKAGED_BASE: "sentence-transformers/all-mpnet-base-v2",
}
_APACHE = ("google-bert/bert-base-cased", "google-bert/bert-base-uncased", *_ENCODERS.values())
"""Encoders that are often started from, with the Apache licence; for others, and other data, a card names none."""

_RECIPE = ("learning_rate", "warmup_ratio", "weight_decay", "batch_size", "max_length", "train_rows", "optimizer")
_OPTIONS = ("class_weights", "pooling", "frozen_layers")
"""Settings that the recipe has only if they differ from the defaults of `BertClassifier`."""

_METRICS = {"acc": ("accuracy", "Accuracy"), "f1": ("f1", "Macro F1")}


def render_model_card(
    checkpoint: Checkpoint,
    class_names: list[str],
    metrics: Mapping[str, Mapping[str, Any]],
    calibration: Mapping[str, float] | None,
    int8: Mapping[str, float] | None = None,
) -> str:
    """Return a model card, with metadata as the Hugging Face Hub reads them.

    `metrics` are by split; `calibration` has the `temperature`, and the calibration error `before` and `after`;
    `int8` the accuracy `before` and `after` on so many validation `rows`, of the file in int8.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    settings = {**checkpoint.data_hyper_parameters, **checkpoint.hyper_parameters}
    usual = inspect.signature(BertClassifier).parameters
    recipe = {key: settings[key] for key in (*_RECIPE, "lr_scheduler") if settings.get(key) is not None}
    recipe |= {key: settings[key] for key in _OPTIONS if settings.get(key, usual[key].default) != usual[key].default}
    encoder, dataset = _ENCODERS.get(settings["pretrained"], settings["pretrained"]), settings.get("dataset", "")
    encoder = encoder.partition("@")[0]
    dataset = ROTTEN_TOMATOES if dataset == PACKAGED else dataset if isinstance(dataset, str) else ""
    dataset = (
        dataset.partition("@")[0] if is_hub_id(dataset) else Path(dataset).name
    )  # a path is nobody else's business
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=dataset or "local",
            dataset_name=dataset or "local files",
            dataset_split="validation" if split == "val" else split,
            metric_type=kind,
            metric_name=title,
            metric_value=round(values[key], 4),
        )
        for split, values in metrics.items()
        for key, (kind, title) in _METRICS.items()
    ]
    name = encoder.rpartition("/")[2]
    metadata = ModelCardData(
        license="apache-2.0" if encoder in _APACHE and dataset == ROTTEN_TOMATOES else None,
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=encoder if _is_on_hub(encoder) else None,
        datasets=[dataset] if _is_on_hub(dataset) else None,
        tags=["text-classification", "lit_bert"],
        model_name=f"{name}, fine-tuned",
        eval_results=results or None,
    )
    card = ModelCard.from_template(
        metadata,
        template_path=str(Path(__file__).with_name("card.md")),
        name=name,
        encoder=encoder if is_hub_id(encoder) else name,
        dataset=dataset or "local files",
        classes=", ".join(class_names),
        results=metrics,
        calibration=calibration,
        int8=int8,
        recipe=recipe,
        checkpoint=checkpoint,
        version=package_version,
    )
    return f"{card}\n"


def read_card_metrics(folder: Path) -> dict[str, dict[str, float]]:
    """Return "acc" and "f1" of an exported folder's splits, as its card has them; empty if there is nothing to read."""
    from huggingface_hub import ModelCard

    metrics: dict[str, dict[str, float]] = {}
    try:
        for result in ModelCard.load(folder / "README.md").data.eval_results or []:
            split = "val" if result.dataset_split == "validation" else str(result.dataset_split)
            for key, (kind, _) in _METRICS.items():
                if result.metric_type == kind:
                    metrics.setdefault(split, {})[key] = float(result.metric_value)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, YAMLError):  # people edit cards
        return {}
    return metrics


def _is_on_hub(name: str) -> bool:
    return "/" in name and is_hub_id(name) and not Path(name).exists()
