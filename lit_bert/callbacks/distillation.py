"""Training on what other models predict for each row, beside its label, and for texts that have none."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.mixins.hparams_mixin import HyperparametersMixin
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.nn import functional as F

from lit_bert.console import status
from lit_bert.data.cache import cache_dir, cached_dir
from lit_bert.data.collate import IGNORED
from lit_bert.data.formats import TABLE_SUFFIXES, TableFormat, suffix_of
from lit_bert.data.readers import read_texts
from lit_bert.datamodule import TextClassificationDataModule
from lit_bert.errors import UserError
from lit_bert.files import display_path

_PROBS, _CLASSES = "probs.npy", "classes.json"


class Distillation(Callback, HyperparametersMixin):
    """Mixes into each row's loss how far the model is from a teacher (Hinton et al. 2015).

    The loss of a row becomes (1 - weight) x its own + weight x temperature^2 x KL(teacher || model), with both softened
    by the temperature; of a row without a label it is the second term alone, with weight 1 (Turc et al. 2019,
    "Well-Read Students Learn Better"). `train/loss` stays the loss of the labels, and `train/distillation_loss` is the
    mean of the second term before it is weighted. The teacher may have another encoder and tokenizer; its answers are
    kept in the cache folder. For modules whose forward returns logits.

    Args:
        teacher: Checkpoint file or exported folder; or a table of probabilities by text, with the columns `text` and
            `prob_<class>` that `predict` writes, so that a model of any kind can teach. Of several, the probabilities
            are averaged; null: none.
        temperature: What logits are divided by, above 0; higher values show more of what is less probable.
        weight: Share of the teacher in the loss of a row with a label, in [0, 1].
        unlabelled: File of texts without a label to train on, too, or "rest": see the data module's option of this
            name, by which it reads them.
    """

    def __init__(
        self,
        teacher: str | list[str] | None = None,
        temperature: float = 2.0,
        weight: float = 0.9,
        unlabelled: str | None = None,
    ) -> None:
        if unlabelled and not teacher:
            raise UserError(f"--distillation.unlabelled {unlabelled}: name the teacher with --distillation.teacher")
        if temperature <= 0:
            raise UserError(f"--distillation.temperature {temperature}: it must be above 0")
        if not 0 <= weight <= 1:
            raise UserError(f"--distillation.weight {weight}: it must be between 0 and 1")
        self.teachers = [teacher] if isinstance(teacher, str) else teacher or []
        self.temperature, self.weight, self.unlabelled = temperature, weight, unlabelled
        if names := ", ".join(self.teachers):
            self.save_hyperparameters({"teacher": names, "temperature": temperature, "teacher_weight": weight})
        self._probs = self._logits = torch.zeros(0)
        self._batch: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask the teachers, and listen to the logits of the module."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not self.teachers or not isinstance(data, TextClassificationDataModule):
            return
        if self.unlabelled and not data.options.unlabelled:
            raise UserError(f"unlabelled={self.unlabelled!r}: give it to the data module, too, which reads the texts")
        rows = data.rows("train")
        index = torch.tensor(rows["index"][:])
        probs = torch.stack([_find_probabilities(teacher, rows, data.class_names) for teacher in self.teachers]).mean(0)
        softened = F.softmax(probs.clamp_min(1e-12).log() / self.temperature, dim=-1)
        by_index = torch.zeros(int(index.max()) + 1, probs.shape[1]).index_copy_(0, index, softened)
        self._probs = by_index.to(pl_module.device)
        self._hook = pl_module.register_forward_hook(self._keep_logits)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(self._probs):
            self._hook.remove()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch = batch

    def _keep_logits(self, module: LightningModule, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 2:  # DDP calls training_step, too, as the module's forward
            self._logits = output

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Change the loss in place, which by now is divided by the number of accumulated batches and scaled in fp16."""
        if not len(self._probs):
            return
        index = self._batch["index"]
        weights = self._batch.get("weights", torch.ones_like(index) / len(index))
        log_probs = F.log_softmax(self._logits.float() / self.temperature, dim=-1)
        divergences = self.temperature**2 * F.kl_div(log_probs, self._probs[index], reduction="none").sum(dim=-1)
        pl_module.log("train/distillation_loss", divergences.detach().mean())
        shares = torch.where(self._batch["labels"] == IGNORED, 1.0, self.weight)
        divergence = (divergences * weights * shares).sum()
        scaler = trainer.precision_plugin.scaler if isinstance(trainer.precision_plugin, MixedPrecision) else None
        divergence = scaler.scale(divergence) if scaler else divergence
        loss.mul_(1 - self.weight).add_(divergence / trainer.accumulate_grad_batches)


def _read_probabilities(teacher: str, texts: list[Any], class_names: Sequence[str]) -> Tensor:
    """Return the probabilities of texts, or pairs of them, that a table has."""
    where, wanted, known = f"--distillation.teacher {teacher}", set(texts), {}
    format = TableFormat(text_pair_column=None if isinstance(texts[0], str) else "text_pair")
    try:
        rows = list(read_texts(teacher, format, [f"prob_{name}" for name in class_names], "--distillation.teacher"))
    except UserError as error:  # its advice is for the options of the data
        raise UserError(f"{str(error).partition(';')[0]}; give a table as `predict` writes it") from error
    for number, row in enumerate(rows, 1):
        if row.content not in wanted:
            continue
        try:
            known[row.content] = [float(value) for value in row.kept]
        except (TypeError, ValueError):
            known[row.content] = [0.0]
        if not (min(known[row.content]) >= 0 and abs(sum(known[row.content]) - 1) < 0.001):  # nor NaN
            values, names = ", ".join(map(str, row.kept)), ", ".join(class_names)
            raise UserError(f"{where}, row {number}: {values} are no probabilities of {names}, which sum to 1")
    if absent := [text for text in texts if text not in known]:
        lacking = f"it lacks {len(absent):,} of the {len(texts):,} training texts, such as {str(absent[0])[:60]!r}"
        raise UserError(f"{where}: {lacking}; predict them, too")
    return torch.tensor([known[text] for text in texts])


def _find_probabilities(teacher: str, rows: Any, class_names: Sequence[str]) -> Tensor:
    """Return a teacher's probabilities of rows, shape (N, C); a model's from the cache folder if they are there."""
    columns = [rows[name][:] for name in ("text", "text_pair") if name in rows.column_names]
    texts = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    if suffix_of(Path(teacher)) in TABLE_SUFFIXES:
        return _read_probabilities(teacher, texts, class_names)
    digest = hashlib.sha256(json.dumps(columns).encode())
    path = Path(teacher)
    for file in sorted(file for file in (path, *path.rglob("*")) if file.is_file()):
        digest.update(file.read_bytes())
    target = cache_dir() / "teachers" / digest.hexdigest()[:20]
    with cached_dir(target) as folder:
        if folder is not None:
            from lit_bert.inference.predictor import Predictor

            predictor = Predictor(teacher)
            status("teacher", f"{display_path(path)} reads the {len(rows):,} training rows")
            np.save(folder / _PROBS, np.stack(list(predictor.stream(texts))))
            (folder / _CLASSES).write_text(json.dumps(predictor.class_names), encoding="utf-8")
    known = json.loads((target / _CLASSES).read_text("utf-8"))
    if known != list(class_names):
        raise UserError(
            f"--distillation.teacher {teacher}: its classes are {', '.join(known)}, those of the data "
            f"{', '.join(class_names)}; they must be the same, in the same order"
        )
    return torch.from_numpy(np.load(target / _PROBS))
