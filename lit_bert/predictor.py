"""A trained classifier for use from Python: sentences in, probabilities out, in their order.

Legend: C classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lit_bert import checkpoints, machine, pretrained, sources
from lit_bert.batching import collate
from lit_bert.errors import UserError

WINDOW = 4096
"""Sentences that are read, sorted by length and predicted together: so many are in memory at a time."""

PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Kinds of arithmetic, as the Trainer names them."""

CPU_TOKENS, GPU_TOKENS = 2048, 32768
"""Tokens per batch, padding included, at most."""


class Prediction(NamedTuple):
    """What is predicted of a sentence.

    Args:
        label: Name of the most probable class.
        score: Its probability, in [0, 1].
        probs: Probability of each class, by its name.
    """

    label: str
    score: float
    probs: dict[str, float]


class Predictor:
    """Predicts sentences with a checkpoint, or with an exported folder.

    `Predictor("runs/<run>/export")(["A warm and funny film."])` returns a list of one `Prediction`. Sentences that are
    longer than in training, or than the encoder takes, are cut.

    Args:
        source: A checkpoint file of `BertClassifier`, or a folder that `transformers` can load as a classifier.
        device: "cpu", "cuda", "cuda:1" and so on; "auto" is a GPU if there is one.
        precision: "32-true", or "bf16-mixed" or "16-mixed" for matrix products in half precision; "auto" is
            "bf16-mixed" where the hardware has it, else "32-true".
        max_length: Tokens kept of a sentence, special tokens included; None keeps as many as in training.

    Raises:
        UserError: There is no such file or folder, or it is no trained classifier; or a value is not one of these.
    """

    def __init__(
        self, source: str | Path, device: str = "auto", precision: str = "auto", max_length: int | None = None
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"Predictor: device {device}: {str(error).splitlines()[0]}") from error
        if precision == "auto":
            precision = "bf16-mixed" if machine.fast_bf16(self.device.type) else "32-true"
        if precision not in PRECISIONS:
            raise UserError(
                f"--trainer.precision {precision}: to predict texts, it must be one of {', '.join(PRECISIONS)}"
            )
        self.dtype = PRECISIONS[precision]
        if Path(source).is_dir():
            folder = Path(source)
            model = pretrained.classifier(folder, str(source), None, trained=True)
            if not sources.has_tokenizer(folder):
                raise UserError(f"{source}: the folder has a model but no tokenizer (tokenizer.json or vocab.txt)")
        else:
            checkpoint = checkpoints.read(source)
            model = pretrained.restored(checkpoint)
            folder = sources.fetch_encoder(str(source))
            max_length = max_length or checkpoint.get("datamodule_hyper_parameters", {}).get("max_length")
        self.model = model.to(self.device)
        self.tokenizer, limit = pretrained.tokenizer(folder, str(source))
        self.max_length = max_length or limit
        if not 3 <= self.max_length <= limit:
            raise UserError(f"--data.max_length {max_length}: it must be between 3 and the encoder's {limit}")
        self.class_names = [str(model.config.id2label[number]) for number in range(model.config.num_labels)]

    def __call__(self, texts: Sequence[str]) -> list[Prediction]:
        """Return a prediction for each sentence.

        Raises:
            UserError: They are one string, whose letters would be taken for sentences.
        """
        if isinstance(texts, str):
            raise UserError("Predictor: give a list of texts, such as [text]")
        predictions = []
        for probs in self.stream(texts):
            best = int(np.argmax(probs))
            named = dict(zip(self.class_names, probs.tolist(), strict=True))
            predictions.append(Prediction(self.class_names[best], float(probs[best]), named))
        return predictions

    def stream(self, texts: Iterable[str]) -> Iterator[np.ndarray[tuple[int], np.dtype[np.float32]]]:
        """Yield the probabilities of each sentence, shape (C,), in their order, without holding more than a window."""
        remaining = iter(texts)
        while window := list(islice(remaining, WINDOW)):
            yield from self._window(window)

    @torch.inference_mode()
    def _window(self, texts: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Return the probabilities of some sentences, shape (len(texts), C)."""
        tokens = self.tokenizer(texts, truncation=True, max_length=self.max_length).input_ids
        lengths = np.array([len(row) for row in tokens])
        order = np.argsort(-lengths, kind="stable")
        most = CPU_TOKENS if self.device.type == "cpu" else GPU_TOKENS
        found, start = [], 0
        while start < len(order):
            fit = min(max(1, most // int(lengths[order[start]])), len(order) - start)
            rows = order[start : start + (1 << (fit.bit_length() - 1))]  # a power of 2: a CPU keeps code for each shape
            batch = collate(
                [{"input_ids": tokens[row], "label": 0, "index": row} for row in rows], self.tokenizer.pad_token_id
            )
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                logits = self.model(
                    **{name: batch[name].to(self.device) for name in ("input_ids", "attention_mask") if name in batch}
                ).logits
            found.append(logits.float().softmax(dim=-1))
            start += len(rows)
        probs = np.empty((len(texts), len(self.class_names)), dtype=np.float32)
        probs[order] = torch.cat(found).cpu().numpy()
        return probs
