"""The LightningModule: encoder, loss, metrics, steps.

Legend: B rows of a batch, T tokens of its longest row, C classes.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import Accuracy, MulticlassAUROC, MulticlassCalibrationError, MulticlassF1Score

from lit_bert import calibration, dropout, predictions, pretrained, sources
from lit_bert.errors import UserError
from lit_bert.graphs import Graphs
from lit_bert.optim import decay_groups, linear_factor

Batch = dict[str, Tensor]


class BertClassifier(LightningModule):
    """BERT with a classification head, fine-tuned with AdamW and a linear schedule.

    The encoder is built when a Trainer starts, from `pretrained`; or from a checkpoint, which holds its architecture,
    class names and tokenizer beside its weights, so that nothing else is needed to use one.

    Args:
        pretrained: Encoder to start from: Hub model id (with "@" and a revision, if it is to be pinned), local folder,
            or "packaged" (MiniLM-L6, a BERT of 22.7 M parameters, from the Python package index).
        class_names: Names of the classes, in the order of their numbers; null takes the data module's.
        learning_rate: Peak learning rate of AdamW, reached after the warm-up.
        warmup_ratio: Fraction of optimizer steps over which the learning rate rises from 0, in [0, 1]; it then falls
            linearly to 0 at the last step.
        weight_decay: AdamW's decoupled weight decay; biases and LayerNorm are spared.
        compiled: Whether to train with `torch.compile`, on one device and without accumulation: on a GPU a CUDA graph
            for each shape of a batch, of which there should be at most 8 (`--data.padding` with a list). Each
            shape is compiled at its first step, 35 s on two CPU cores: it is for long runs, and gains nothing on a CPU.

    Raises:
        UserError: A value is out of range; later, `pretrained` cannot be had or is no encoder.
    """

    def __init__(
        self,
        pretrained: str = "google-bert/bert-base-cased",
        class_names: list[str] | None = None,
        learning_rate: float = 5e-5,
        warmup_ratio: float = 0.0,
        weight_decay: float = 0.0,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        for option, value, most in (
            ("learning_rate", learning_rate, float("inf")),
            ("warmup_ratio", warmup_ratio, 1.0),
            ("weight_decay", weight_decay, float("inf")),
        ):
            if not 0 <= value <= most:
                raise UserError(f"--model.{option} {value}: it must be between 0 and {most:g}")
        self.save_hyperparameters()
        self.pretrained = pretrained
        self.class_names = class_names
        self.learning_rate = learning_rate
        self.warmup_ratio = warmup_ratio
        self.weight_decay = weight_decay
        self.compiled = compiled
        self.model: nn.Module | None = None
        self.encoder_files: dict[str, str] = {}
        self.seen: dict[str, Batch] = {}
        """The rows of the last whole epoch of "train", "val" and "test", as `predictions.gather` returns them."""
        self.vectors_below = 0
        """If not 0, predictions are of the rows with a smaller index alone, and bring `vectors`."""
        self.finite = torch.ones((), dtype=torch.bool)
        """Whether every loss and gradient of this training was a finite number; on the module's device."""
        self._seeing: dict[str, list[Batch]] = {"train": [], "val": [], "test": []}
        self._graphs: Graphs | None = None
        self._loss = torch.zeros(())
        self._validated_at = -1

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the logits, shape (B, C), of token ids and their mask, both of shape (B, T); None masks nothing."""
        assert self.model is not None, "the encoder is built by a Trainer, or by load_from_checkpoint"
        if attention_mask is not None and cast(Any, self.model).config._attn_implementation == dropout.ATTENTION:
            # transformers would look whether it masks anything, which waits for the GPU; it takes a 4-D one as it is.
            attention_mask = attention_mask[:, None, None, :].bool()
        model = self._graphs if self._graphs and self.training else self.model
        return cast(Tensor, model(input_ids=input_ids, attention_mask=attention_mask).logits)

    # --- building -----------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Fetch the pretrained weights once per node, if training is to start from them."""
        if self._starts_from_pretrained:
            sources.fetch_encoder(self.pretrained)

    def configure_model(self) -> None:
        """Build the encoder from `pretrained` if training is to start from it; a checkpoint brings its own later.

        Raises:
            UserError: It cannot be had, or is no encoder.
        """
        if self._starts_from_pretrained:
            self._build()

    @property
    def _starts_from_pretrained(self) -> bool:
        """Whether a Trainer is about to train it, and not from a checkpoint."""
        return self._trainer is not None and self.trainer.training and not self.trainer.ckpt_path

    def _build(self) -> None:
        """Build the encoder from `pretrained`, unless there is one; to be evaluated, its classifier must be trained."""
        if self.model is not None:
            return
        data = getattr(self.trainer, "datamodule", None)
        names = self.class_names or getattr(data, "class_names", None)
        if names is None:
            raise UserError("BertClassifier: give class_names, or train it with a data module that has them")
        if self.pretrained.endswith(".ckpt"):
            raise UserError(f"--model.pretrained {self.pretrained}: give a checkpoint with --ckpt_path")
        folder = sources.fetch_encoder(self.pretrained)
        called = f"--model.pretrained {self.pretrained}"
        self._adopt(pretrained.classifier(folder, called, names, trained=not self.trainer.training))

    def setup(self, stage: str) -> None:
        """Take the tokenizer's files along for the checkpoint; forget the rows of an epoch that was broken off."""
        self._seeing = {"train": [], "val": [], "test": []}
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.encoder_files |= data.tokenizer_files

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put beside the weights: the encoder's config, the tokenizer, and what this epoch has seen so far.

        If it was validated with these very weights, that is `val_rows`.
        """
        assert self.model is not None
        config = cast(Any, self.model).config.to_json_string(use_diff=False)
        checkpoint["encoder"] = {**self.encoder_files, "config.json": config}
        checkpoint["val_rows"] = self.seen["val"] if self._validated_at == self.global_step else {}
        checkpoint["train_rows"] = predictions.gather(self._seeing["train"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the encoder that the checkpoint describes.

        Raises:
            UserError: It was fine-tuned from another model, or its classes are not those of the data.
        """
        if self._trainer is not None and self.trainer.training:
            self.seen["val"], self._validated_at = checkpoint["val_rows"], checkpoint["global_step"]
            self._seeing["train"] = [rows] if (rows := checkpoint["train_rows"]) and self.trainer.is_global_zero else []
        start = checkpoint["hyper_parameters"]["pretrained"]
        if self._trainer is not None and start != self.pretrained:
            raise UserError(
                f"--ckpt_path: the checkpoint was fine-tuned from {start}, not from --model.pretrained "
                f"{self.pretrained}; leave out one of the two"
            )
        if self.model is None:
            self.encoder_files = {name: text for name, text in checkpoint["encoder"].items() if name != "config.json"}
            self._adopt(copy.deepcopy(pretrained.restored(checkpoint)))
        data = getattr(self._trainer, "datamodule", None)
        if data is not None and data.class_names != self.class_names:
            raise UserError(
                f"--ckpt_path: the checkpoint's classes are {', '.join(self.class_names or [])}, "
                f"those of --data.dataset {data.dataset} are {', '.join(data.class_names)}; "
                "they must be the same, in the same order"
            )

    def _adopt(self, model: Any) -> None:
        """Take a built encoder, in training mode, and make its metrics."""
        # from_pretrained returns a model in eval mode, and Lightning keeps the mode it finds, so that dropout would
        # stay off (Lightning-AI/pytorch-lightning#20105).
        self.model = model.train()
        self.class_names = [model.config.id2label[number] for number in range(model.config.num_labels)]
        classes = model.config.num_labels
        # Every rank computes these on the rows of all ranks, in their order: the last digit is that of a single rank.
        alone: Any = {"num_classes": classes, "validate_args": False, "sync_on_compute": False}
        accuracy = Accuracy(task="multiclass", average="micro", **alone)
        f1 = MulticlassF1Score(average="macro", **alone)
        auroc, ece = MulticlassAUROC(**alone), MulticlassCalibrationError(n_bins=calibration.BINS, **alone)
        self.metrics = {
            "train": MetricCollection({"acc": accuracy, "f1": f1}),  # of predictions made while it learns
            "val": MetricCollection({"acc": accuracy, "f1": f1, "auroc": auroc, "ece": ece}),
        }
        dropout.install(model)
        self.to(self.device)

    def on_train_start(self) -> None:
        """Compile, if asked; on resuming, let today's learning rate and weight decay count, not the checkpoint's."""
        self.finite = torch.ones((), dtype=torch.bool, device=self.device)
        self._seeing["train"] = [{k: v.to(self.device) for k, v in rows.items()} for rows in self._seeing["train"]]
        if self.compiled:
            self._graphs = Graphs(cast(nn.Module, self.model), self.trainer)
        schedule = cast(torch.optim.lr_scheduler.LambdaLR, self.lr_schedulers())
        schedule.base_lrs = [self.learning_rate for _ in schedule.base_lrs]
        now = self.learning_rate * schedule.lr_lambdas[0](schedule.last_epoch)
        today = decay_groups(self, self.weight_decay)
        for group, asked in zip(schedule.optimizer.param_groups, today, strict=True):
            group.update(lr=now, initial_lr=self.learning_rate, weight_decay=asked["weight_decay"])

    # --- steps --------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the cross-entropy of a batch of `batching.collate`: the mean, or the sum with its `weights` (B,)."""
        logits = self(batch["input_ids"], batch.get("attention_mask")).float()
        losses = F.cross_entropy(logits, batch["labels"], reduction="none")
        self._seeing["train"].append(
            {"index": batch["index"], "pred": logits.argmax(dim=-1).detach(), "labels": batch["labels"]}
        )
        if self._is_logged():
            self._loss = losses.detach().mean()
            self.log("train/loss", self._loss, prog_bar=True, logger=False, batch_size=len(logits))
        loss = (losses * batch["weights"]).sum() if "weights" in batch else losses.mean()
        self.finite = self.finite & loss.detach().isfinite()
        return loss

    def _is_logged(self) -> bool:
        """Whether the values of this step are logged: those of the first, and of each `--trainer.log_every_n_steps`."""
        step, every = self.trainer.global_step, cast(Any, self.trainer).log_every_n_steps
        return every > 0 and (step == 0 or (step + 1) % every == 0)

    def log_now(self, values: Mapping[str, Any], step: int) -> None:
        """Hand values of training to the loggers at once.

        Lightning would do so after the hooks in which checkpoints are written: a run killed in between and resumed from
        one would lack them.
        """
        for logger in self.loggers:
            logger.log_metrics({name: float(value) for name, value in values.items()}, step)

    def on_train_epoch_end(self) -> None:
        """Log the metrics of all rows of all ranks, as they were predicted while the weights changed."""
        self._summarise("train")

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the Trainer is told to, and log the learning rate and the gradient's norm before clipping."""
        # Lightning's own clipping refuses a fused optimizer under any autocast, though only fp16's gradient scaler
        # would be in its way (and configure_optimizers does not fuse then).
        by_value = gradient_clip_algorithm == "value"
        max_norm = gradient_clip_val if gradient_clip_val and not by_value else float("inf")
        norm = nn.utils.clip_grad_norm_(self.parameters(), max_norm)
        if self.trainer.precision != "16-mixed":  # there an infinite gradient is skipped, and the scale lowered
            self.finite = self.finite & norm.isfinite()
        if self._is_logged():
            values = {"train/loss": self._loss, "train/grad_norm": norm, "train/lr": optimizer.param_groups[0]["lr"]}
            self.log_now(values, self.global_step)
        if by_value and gradient_clip_val:
            nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)

    def on_validation_start(self) -> None:
        """Build the encoder, where no training or checkpoint has."""
        self._build()

    on_test_start = on_predict_start = on_validation_start

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the predictions of a batch, with `labels` (B,) and each row's `loss` (B,), until the epoch ends."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the predictions of a batch, with `labels` (B,) and each row's `loss` (B,), until the epoch ends."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: Batch, split: str) -> None:
        logits = self(batch["input_ids"], batch.get("attention_mask")).float()
        losses = F.cross_entropy(logits, batch["labels"], reduction="none")
        self._seeing[split].append({**_predicted(logits, batch), "labels": batch["labels"], "loss": losses})

    def on_validation_epoch_end(self) -> None:
        """Log loss and metrics of all rows of all ranks."""
        self._summarise("val")

    def on_test_epoch_end(self) -> None:
        """Log loss and metrics of all rows of all ranks."""
        self._summarise("test")

    def _summarise(self, split: str) -> None:
        """Gather the rows of all ranks, and log the metrics of them: the same values on every rank."""
        rows = self.seen[split] = predictions.gather(self._seeing[split])
        self._seeing[split] = []
        if split == "val":
            self._validated_at = self.global_step
        if not rows:
            return
        values = self.measure(rows)
        values = {f"{split}/{name}": value for name, value in values.items()}
        self.log_dict(values, logger=False if split == "train" else None, batch_size=len(rows["index"]))
        if split == "train":
            self.log_now(values, self.global_step - 1)

    def measure(self, rows: Batch) -> dict[str, Tensor]:
        """Return the metrics of rows of `seen`: "acc", "f1", and of evaluated ones "auroc", "ece" and "loss"."""
        metrics = self.metrics["val" if "probs" in rows else "train"]
        metrics.update(rows.get("probs", rows["pred"]), rows["labels"])
        values = dict(metrics.compute())
        metrics.reset()
        if "loss" in rows:
            values["loss"] = rows["loss"].double().mean().float()
        return values

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Return each row's `index` in its split (B,), predicted class `pred` (B,) and probabilities `probs` (B, C).

        With `vectors_below` there are `vectors` (B, hidden size), too: the last hidden state of each row's first token.
        """
        if not self.vectors_below:
            return _predicted(self(batch["input_ids"], batch.get("attention_mask")).float(), batch)
        with _first_vectors(cast(Any, self.model).base_model) as vectors:
            logits = self(batch["input_ids"], batch.get("attention_mask")).float()
        chosen = batch["index"] < self.vectors_below
        return {name: value[chosen] for name, value in {**_predicted(logits, batch), **vectors}.items()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW over two decay groups, and the linear schedule, stepped after each optimizer step."""
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise UserError("--trainer.max_epochs -1: the learning rate falls to 0 at a last step; give a number")
        total_steps = int(steps)
        warmup_steps = -int(-self.warmup_ratio * total_steps // 1)  # rounded up, as the Hugging Face Trainer does
        fused = self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        optimizer = torch.optim.AdamW(decay_groups(self, self.weight_decay), lr=self.learning_rate, fused=fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: linear_factor(step, warmup_steps, total_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _predicted(logits: Tensor, batch: Batch) -> Batch:
    probs = logits.softmax(dim=-1)
    return {"index": batch["index"], "pred": probs.argmax(dim=-1), "probs": probs}


@contextmanager
def _first_vectors(encoder: nn.Module) -> Iterator[Batch]:
    """Yield a dict that gets `vectors` (B, hidden size), the first token's last hidden states, as the encoder runs."""
    found: Batch = {}
    handle = encoder.register_forward_hook(
        lambda module, args, output: found.update(vectors=output.last_hidden_state[:, 0].float())
    )
    try:
        yield found
    finally:
        handle.remove()
