"""The model card of an exported folder: what the model is, how it was made, how good it is, how to use it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from lit_bert import report, sources
from lit_bert.provenance import installed

LICENSES = {"google-bert/bert-base-cased": "apache-2.0", "google-bert/bert-base-uncased": "apache-2.0"}
"""Of encoders that are often started from; of others a card names none."""

_PACKAGED_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGED_DATA = "cornell-movie-review-data/rotten_tomatoes"
_RECIPE = ("learning_rate", "warmup_ratio", "weight_decay", "batch_size", "max_length", "train_rows")
_VERSIONS = ("lit_bert", "torch", "lightning", "transformers", "tokenizers")


def text(
    checkpoint: Mapping[str, Any],
    class_names: list[str],
    records: Mapping[str, Mapping[str, Any]],
    calibrated: Mapping[str, float] | None,
) -> str:
    """Return a card, with metadata as the Hugging Face Hub reads them.

    Args:
        checkpoint: What `checkpoints.read` returned.
        class_names: Names of the classes.
        records: What `report.summary` returned, by the split's title.
        calibrated: `temperature`, and the calibration error `before` and `after` on validation rows; None if weights
            are as trained.
    """
    model = checkpoint["hyper_parameters"]
    data = checkpoint.get("datamodule_hyper_parameters", {})
    packaged = model["pretrained"] == sources.PACKAGED
    start = _PACKAGED_MODEL if packaged else model["pretrained"].partition("@")[0]
    named = data.get("dataset", "")
    rows = _PACKAGED_DATA if named == sources.PACKAGED else named.partition("@")[0] if isinstance(named, str) else ""
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=rows or "local",
            dataset_name=rows or "local files",
            dataset_split={"val": "validation"}.get(split, split),
            metric_type=kind,
            metric_name=title,
            metric_value=round(record[key], 4),
        )
        for split, record in records.items()
        for key, kind, title in (("acc", "accuracy", "Accuracy"), ("f1", "f1", "Macro F1"))
    ]
    metadata = ModelCardData(
        license="apache-2.0" if packaged else LICENSES.get(start),
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=start if _on_the_hub(start) else None,
        datasets=[rows] if _on_the_hub(rows) else None,
        tags=["text-classification", "lit_bert"],
        model_name=f"{start.rpartition('/')[2]}, fine-tuned",
        eval_results=results or None,
    )
    parts = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {start.rpartition('/')[2]}, fine-tuned for {', '.join(class_names)}",
    ]
    parts.append(
        f"Tells of a sentence which of these classes it belongs to: {', '.join(class_names)}.\n\n"
        "```python\nfrom transformers import pipeline\n\n"
        'classify = pipeline("text-classification", "path/to/this/folder")\n'
        'classify(["A warm and funny film."], truncation=True, top_k=None)\n```'
    )
    parts.append(f"## How good it is\n\n{_results(records)}")
    if calibrated:
        parts.append(
            f"Its logits are divided by {calibrated['temperature']:.3f}: temperature scaling, fitted on the validation "
            "rows and folded into the last layer. Predicted classes are the same; the calibration error on these is "
            f"{calibrated['after']:.4f} in place of {calibrated['before']:.4f}, and the table shows the latter."
        )
    recipe = [f"- {name}: {({**data, **model})[name]}" for name in _RECIPE if {**data, **model}.get(name) is not None]
    recipe += [f"- epochs: {checkpoint['epoch'] + 1}, optimizer steps: {checkpoint['global_step']}"]
    parts.append(
        f"## How it was made\n\nFrom {start}, on {rows or 'local files'}, with AdamW and a learning rate that falls "
        "linearly to 0. Rows were drawn, and the epoch chosen, as the recipe says; what is not listed is lit_bert's "
        "default.\n\n" + "\n".join(recipe)
    )
    like = " (Rotten Tomatoes: single sentences of English film reviews)" if rows == _PACKAGED_DATA else ""
    parts.append(
        f"## Use and limits\n\nMeant for sentences like those it was trained on{like}. On "
        "other kinds of text, other languages or longer texts its accuracy is unknown; texts "
        "beyond its positions must be truncated. Sentences without an opinion get one of the classes all the same. It "
        "has learned what its training texts hold, prejudice included: decide nothing about people with it."
    )
    parts.append("## Versions\n\n" + ", ".join(f"{name} {found}" for name in _VERSIONS if (found := installed(name))))
    return "\n\n".join(parts) + "\n"


def _on_the_hub(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def _results(records: Mapping[str, Mapping[str, Any]]) -> str:
    if not records:
        return "It was not evaluated."
    lines = ["| split | rows | accuracy | 95 % interval | macro F1 | calibration error |", "| --- " * 6 + "|"]
    for split, of in records.items():
        shown = f"{of['acc']:.4f} | {report.interval(of)} | {of['f1']:.4f} | {of['ece']:.4f}"
        lines.append(f"| {split} | {of['rows']:,} | {shown} |")
    return "\n".join(lines)
