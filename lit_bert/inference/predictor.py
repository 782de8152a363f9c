"""A trained classifier for use from Python: sentences in, probabilities out, in their order.

Legend: N sentences, C classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from lit_bert.data.collate import collate
from lit_bert.data.encoding import TextEncoder
from lit_bert.data.hub import has_tokenizer
from lit_bert.errors import UserError, reason
from lit_bert.inference.explain import Explanation, explain
from lit_bert.modeling import classes, encoder
from lit_bert.modeling.checkpoint import Checkpoint
from lit_bert.modeling.forward import logits_of
from lit_bert.modeling.tokenizer import find_tokenizer, load_tokenizer
from lit_bert.run.hardware import has_fast_bf16

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WINDOW = 4096
"""Sentences that are read, sorted by length and predicted together: so many are in memory at a time."""

PRECISIONS = {"32-true": None} | dict.fromkeys(("bf16-mixed", "bf16-true"), torch.bfloat16)
PRECISIONS |= dict.fromkeys(("16-mixed", "16-true"), torch.float16)
"""Dtypes of autocast, by the names that the Trainer has for them; weights stay as they are."""

CPU_TOKENS, GPU_TOKENS = 2048, 32768
"""Tokens per batch, padding included, at most."""

SETTINGS = "lit_bert"
"""Entry of an exported folder's config.json for how texts were read in training, where transformers has none."""

Text = str | tuple[str, str]
"""A sentence or any other text; or a pair of them."""

Probabilities = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class Prediction(NamedTuple):
    """The name of the most probable class, its probability in [0, 1], and that of each class by its name."""

    label: str
    score: float
    probs: dict[str, float]


class Predictor:
    """Predicts sentences with a checkpoint, or with an exported folder.

    `Predictor("runs/<run>/export")(["A warm and funny film."])` returns a list of one `Prediction`. Sentences that are
    longer than in training, or than the encoder takes, are read as in training (`--data.long_text`).

    Args:
        source: A checkpoint file of `BertClassifier`, or a folder that `transformers` can load as a classifier.
        device: "cpu", "cuda", "cuda:1" and so on; "auto" is a GPU if there is one.
        precision: "32-true", or "bf16-mixed" or "16-mixed" for matrix products in half precision; "auto" is
            "bf16-mixed" where the hardware has it, else "32-true".
        max_length: Tokens kept of a sentence, special tokens included; None keeps as many as in training.

    Raises:
        UserError: An argument is none of these; or, when it predicts, a probability is not a finite number.
    """

    def __init__(
        self, source: str | Path, device: str = "auto", precision: str = "auto", max_length: int | None = None
    ) -> None:
        self.source = str(source)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"Predictor: device {device}: {reason(error)}") from error
        if precision == "auto":
            precision = "bf16-mixed" if has_fast_bf16(self.device.type) else "32-true"
        if precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise UserError(f"--trainer.precision {precision}: to predict texts, it must be one of {known}")
        self.dtype = PRECISIONS[precision]
        model, tokenizer, settings = _load(Path(source))
        self.model, limit = model.to(self.device), tokenizer.model_max_length
        self.max_length = max_length or settings.get("max_length") or limit
        if not 3 <= self.max_length <= limit:
            raise UserError(f"--data.max_length {max_length}: it must be between 3 and the encoder's {limit}")
        self.text_pair_column: str | None = settings.get("text_pair_column")
        self.encode = TextEncoder(tokenizer, self.max_length, settings.get("long_text", "head"))
        self.class_names = classes.class_names(model.config)

    def __call__(self, texts: Sequence[Text]) -> list[Prediction]:
        """Return a prediction for each text, or for each pair of two."""
        if isinstance(texts, str):
            raise UserError("Predictor: give a list of texts, such as [text]")
        rows = (dict(zip(self.class_names, probs.tolist(), strict=True)) for probs in self.stream(texts))
        return [Prediction(max(probs, key=probs.__getitem__), max(probs.values()), probs) for probs in rows]

    def explain(self, texts: Sequence[Text]) -> list[Explanation]:
        """Return how much each word adds to the probability of the predicted class, of each text or pair of two."""
        explanations = []
        for text, (label, score, _) in zip(texts, self(texts), strict=True):
            scores = explain(self.model, self.encode, text, self.class_names.index(label))
            explanations.append(Explanation(label, score, *scores))
        return explanations

    def stream(self, texts: Iterable[Text]) -> Iterator[Probabilities]:
        """Yield the probabilities of each text, shape (C,), in their order, with one window in memory at a time."""
        remaining = _checked(texts)
        while window := list(islice(remaining, WINDOW)):
            yield from self._predict_window(window)

    @torch.inference_mode()
    def _predict_window(self, texts: list[Text]) -> Probabilities:
        """Return the probabilities of texts, shape (N, C); those of about equal length share a batch."""
        if self.text_pair_column and any(isinstance(text, str) for text in texts):
            raise UserError(f"{self.source}: it was trained on pairs of texts; give a tuple of two in place of each")
        first, second = zip(*texts, strict=True) if not isinstance(texts[0], str) else (texts, None)
        columns = self.encode(first, second)  # type: ignore[arg-type]
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        lengths = np.array([len(row["input_ids"]) for row in rows])
        order = np.argsort(-lengths, kind="stable")
        max_tokens = CPU_TOKENS if self.device.type == "cpu" else GPU_TOKENS
        batches, start = [], 0
        while start < len(order):
            size = min(max(1, max_tokens // int(lengths[order[start]])), len(order) - start)
            size = 1 << (size.bit_length() - 1)  # a power of 2: a CPU keeps code for each shape
            chosen = [{**rows[row], "label": 0, "index": row} for row in order[start : start + size]]
            batch = collate(chosen, self.encode.tokenizer.pad_token_id)
            inputs = {name: batch[name].to(self.device) for name in batch.keys() - {"labels", "index"}}
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                logits = logits_of(self.model, dict(inputs))
            batches.append(logits.float().softmax(dim=-1))
            start += size
        probs = np.empty((len(texts), len(self.class_names)), dtype=np.float32)
        probs[order] = torch.cat(batches).cpu().numpy()
        if not np.isfinite(probs).all():
            raise UserError(
                f"{self.source}: a probability is not a finite number: its weights are not finite numbers, or too "
                "large for this precision; use another checkpoint, or --trainer.precision 32-true"
            )
        return probs


def _checked(texts: Iterable[Text]) -> Iterator[Text]:
    for number, text in enumerate(texts):
        parts = text if isinstance(text, tuple) else (text,)
        if not all(isinstance(part, str) and part.strip() for part in parts):
            raise UserError(f"Predictor: texts[{number}] is {text!r}, which is empty or not text; leave it out")
        yield text


def _load(source: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]":
    """Return the model of a checkpoint or folder, its tokenizer, and how texts are read."""
    if not source.is_dir():
        checkpoint = Checkpoint.read(source)
        return restore_model(checkpoint), find_tokenizer(checkpoint), checkpoint.data_hyper_parameters
    model, head_is_new = encoder.load_classifier(source, str(source))
    if head_is_new:
        raise classes.untrained(str(source), model.config)
    if not has_tokenizer(source):
        raise UserError(f"{source}: the folder has a model but no tokenizer (tokenizer.json or vocab.txt)")
    return model, load_tokenizer(source, str(source)), model.config.to_dict().get(SETTINGS) or {}


def restore_model(checkpoint: Checkpoint) -> "PreTrainedModel":
    """Return the classifier of a checkpoint, in evaluation mode; a UserError says that transformers has none such."""
    source = f"--ckpt_path {checkpoint.path}"
    if checkpoint.own_forward:
        raise UserError(
            f"{source}: it was trained by a subclass of BertClassifier with a forward of its own, which transformers "
            "does not have; predict with `predict` of the script that trained it"
        )
    return encoder.restore_classifier(checkpoint.encoder_config, checkpoint.state_dict, source)
