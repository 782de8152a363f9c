"""A trained classifier for use from Python: sentences in, probabilities out, in their order.

Legend: N sentences, C classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from lit_bert.data.collate import collate
from lit_bert.data.encoding import TextEncoder
from lit_bert.data.hub import has_tokenizer
from lit_bert.errors import UserError, reason
from lit_bert.inference.checksums import verify_checksums
from lit_bert.inference.explain import Explanation, WordScore, explain
from lit_bert.inference.onnx import BATCH_TOKENS, OnnxClassifier
from lit_bert.modeling import classes, encoder, lora
from lit_bert.modeling.checkpoint import Checkpoint
from lit_bert.modeling.forward import logits_of, mean_over_windows
from lit_bert.run.hardware import has_fast_bf16

WINDOW = 4096
"""Sentences that are read, sorted by length and predicted together: so many are in memory at a time."""

PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Dtypes of autocast, by the names that the Trainer has for them."""

CPU_TOKENS, GPU_TOKENS = 2048, 32768
"""Tokens per batch, padding included, at most."""


Backend = Literal["torch", "onnx"]

SETTINGS = "lit_bert"
"""Entry of an exported folder's config.json for how texts were read in training, where transformers has none."""

Text = str | tuple[str, str]
"""A sentence or any other text; or a pair of them."""


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
        backend: "torch", or "onnx" for the ONNX file of an exported folder, that in int8 if it has both, on the CPU.

    What is none of these is a UserError; so is, when it predicts, a probability that is not a finite number.
    """

    def __init__(
        self,
        source: str | Path,
        device: str = "auto",
        precision: str = "auto",
        max_length: int | None = None,
        backend: Backend = "torch",
    ) -> None:
        self.source = str(source)
        if backend == "onnx":
            if device not in ("auto", "cpu"):
                raise UserError(f"--backend onnx: it runs on the CPU, not on {device}; set --trainer.accelerator cpu")
            device, precision = "cpu", "32-true"  # its own
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
        self.backend = backend
        self.model, config, tokenizer, limit, settings = _load(Path(source), backend)
        if backend == "torch":
            self.model = self.model.to(self.device)
        self.max_length = max_length or settings.get("max_length") or limit
        if not 3 <= self.max_length <= limit:
            raise UserError(f"--data.max_length {max_length}: it must be between 3 and the encoder's {limit}")
        self.text_pair_column = settings.get("text_pair_column")
        self.encode = TextEncoder(tokenizer, self.max_length, settings.get("long_text", "head"))
        self.class_names = classes.class_names(config)

    def __call__(self, texts: Sequence[Text]) -> list[Prediction]:
        """Return a prediction for each text, or for each pair of two."""
        if isinstance(texts, str):
            raise UserError("Predictor: give a list of texts, such as [text]")
        rows = (dict(zip(self.class_names, probs.tolist(), strict=True)) for probs in self.stream(texts))
        return [Prediction(max(probs, key=probs.__getitem__), max(probs.values()), probs) for probs in rows]

    def explain(self, texts: Sequence[Text]) -> list[Explanation]:
        """Return how much each word adds to the probability of the predicted class, of each text or pair of two."""
        answers = self(texts)
        whys = self.explain_classes(texts, [list(answer.probs.values()) for answer in answers])
        return [Explanation(of.label, of.score, *why) for of, why in zip(answers, whys, strict=True)]

    def explain_classes(
        self, texts: Sequence[Text], probabilities: Sequence[Sequence[float]]
    ) -> Iterator[tuple[list[WordScore], float]]:
        """Yield `words` and `error` of each text's `Explanation`, for the class that is most probable by these."""
        if self.backend == "onnx":
            raise UserError("--backend onnx: it has no gradients, which explanations need; take torch")
        return explain(self.model, self.encode, texts, [probs.index(max(probs)) for probs in probabilities])

    def stream(self, texts: Iterable[Text]) -> Iterator[np.ndarray[tuple[int], np.dtype[np.float32]]]:
        """Yield the probabilities of each text, shape (C,), in their order, with one window in memory at a time."""
        remaining = iter(texts)
        while window := list(islice(remaining, WINDOW)):
            yield from self._predict_window(window)

    @torch.inference_mode()
    def _predict_window(self, texts: list[Text]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Return the probabilities of texts, shape (N, C); those of about equal length share a batch."""
        if self.text_pair_column and any(isinstance(text, str) for text in texts):
            raise UserError(f"{self.source}: it was trained on pairs of texts; give a tuple of two in place of each")
        first, second = zip(*texts, strict=True) if not isinstance(texts[0], str) else (texts, None)
        columns = self.encode(first, second)  # type: ignore[arg-type]
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        lengths = np.array([len(row["input_ids"]) for row in rows])
        order = np.argsort(-lengths, kind="stable")
        max_tokens = CPU_TOKENS if self.device.type == "cpu" else GPU_TOKENS
        max_tokens = BATCH_TOKENS if self.backend == "onnx" else max_tokens
        batches, start = [], 0
        while start < len(order):
            size = min(max(1, max_tokens // int(lengths[order[start]])), len(order) - start)
            size = 1 << (size.bit_length() - 1)  # a power of 2: a CPU keeps code for each shape
            chosen = [{**rows[row], "label": 0, "index": row} for row in order[start : start + size]]
            batch = collate(chosen, self.encode.tokenizer.pad_token_id, self.max_length)
            inputs = {name: batch[name].to(self.device) for name in batch.keys() - {"labels", "index", "windows"}}
            logits = self._logits_of(inputs)
            batches.append(mean_over_windows(logits, batch.get("windows")).softmax(dim=-1))
            start += size
        probs = np.empty((len(texts), len(self.class_names)), dtype=np.float32)
        probs[order] = torch.cat(batches).cpu().numpy()
        if not np.isfinite(probs).all():
            raise UserError(
                f"{self.source}: a probability is not a finite number: its weights are not finite numbers, or too "
                "large for this precision; use another checkpoint, or --trainer.precision 32-true"
            )
        return probs

    def _logits_of(self, inputs: dict[str, Tensor]) -> Tensor:
        if self.backend == "onnx":
            return cast(Tensor, self.model(inputs))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            return logits_of(self.model, None, dict(inputs)).float()


class _Parts(NamedTuple):
    """What a checkpoint or a folder has: a model, its config, tokenizer, most tokens, and how texts are read."""

    model: Any
    config: Any
    tokenizer: Any
    limit: int
    settings: Any


def _load(source: Path, backend: Backend) -> _Parts:
    if source.is_dir():
        return _load_folder(source, backend)
    if backend == "onnx":
        raise UserError(
            f"--backend onnx: {source} is no exported folder; make one with python -m lit_bert.export --int8"
        )
    checkpoint = Checkpoint.read(source)
    model, files = restore_model(checkpoint), checkpoint.tokenizer_files
    loaded = encoder.tokenizer_from_files(files, checkpoint.encoder_config, f"--ckpt_path {source}")
    return _Parts(model, model.config, *loaded, checkpoint.data_hyper_parameters)


def _load_folder(folder: Path, backend: Backend) -> _Parts:
    verify_checksums(folder)
    if backend == "onnx":
        model: Any = OnnxClassifier(folder)
        config = encoder.load_config(folder, str(folder))
    else:
        model, head_is_new = encoder.load_classifier(folder, str(folder))
        config = model.config
        if head_is_new:
            raise classes.untrained(str(folder), config)
    if not has_tokenizer(folder):
        raise UserError(f"{folder}: the folder has a model but no tokenizer (tokenizer.json or vocab.txt)")
    return _Parts(model, config, *encoder.load_tokenizer(folder, str(folder)), getattr(config, SETTINGS, None) or {})


def restore_model(checkpoint: Checkpoint) -> Any:
    """Return the classifier of a checkpoint, in evaluation mode."""
    source = f"--ckpt_path {checkpoint.path}"
    if checkpoint.own_forward:
        raise UserError(
            f"{source}: it was trained by a subclass of BertClassifier with a forward of its own, which transformers "
            "does not have; predict with `predict` of the script that trained it"
        )
    adapted = checkpoint.hyper_parameters.get("lora_rank")
    weights = lora.merge(checkpoint.state_dict) if adapted else checkpoint.state_dict
    return encoder.restore_classifier(checkpoint.encoder_config, weights, source)
