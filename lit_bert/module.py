"""The LightningModule: encoder, loss, metrics, steps, optimizer.

Legend: B rows of a batch, T tokens of its longest row, C classes.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, cast

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from lit_bert.console import status
from lit_bert.data.collate import IGNORED
from lit_bert.errors import UserError
from lit_bert.modeling import classes, dropout, encoder
from lit_bert.modeling import optimizer as optim
from lit_bert.modeling.forward import logits_of
from lit_bert.modeling.freezing import freeze_layers
from lit_bert.modeling.loss import ClassWeights, LossWeights, check_losses
from lit_bert.modeling.metrics import evaluation_metrics, training_metrics

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = dict[str, Tensor]


class BertClassifier(LightningModule):
    """BERT with a classification head, trained with AdamW and a linear schedule.

    Args:
        pretrained: Encoder to start from: Hub model id (pinned by "@" and a revision), local folder, or from the Python
            package index "packaged" (MiniLM-L6, a BERT of 22.7 M parameters) or "packaged-base" (an MPNet of 109 M).
        class_names: Names of the classes, in the order of their numbers; null takes those of the data.
        learning_rate: Peak learning rate of AdamW, reached after the warm-up.
        warmup_ratio: Fraction of optimizer steps over which the rate rises from 0, in [0, 1]; it then falls to 0.
        weight_decay: AdamW's decoupled weight decay; biases and LayerNorm are spared.
        class_weights: Weight of each class in the loss; "balanced" makes all weigh the same, whatever their rows.
        pooling: "cls" classifies the last layer's first token, as BERT does; "mean" adds a layer to BERT in which this
            token starts as the mean of all tokens, for encoders that were trained so (sentence-transformers).
        frozen_layers: Number of the encoder's first layers that are not trained; above 0, nor are the embeddings.
        cuda_graphs: Whether the command line adds the callback `CudaGraphs`, which trains through CUDA graphs on a GPU.
            They do not call forward hooks of the encoder.
        optimizer: `class_path` and `init_args` of an optimizer to use in place of AdamW.
        lr_scheduler: `class_path` and `init_args` of another schedule, which is stepped after each optimizer step.
        encoder_config: Content of a config.json, as checkpoints hold it: the encoder is built from it with random
            weights, and `pretrained` is not read.

    Raises:
        UserError: A value is out of range, or there is no such encoder.
    """

    def __init__(
        self,
        pretrained: str = "google-bert/bert-base-cased",
        class_names: list[str] | None = None,
        learning_rate: float = 5e-5,
        warmup_ratio: float = 0.0,
        weight_decay: float = 0.0,
        class_weights: ClassWeights = None,
        pooling: Literal["cls", "mean"] = "cls",
        frozen_layers: int = 0,
        cuda_graphs: bool = True,
        optimizer: dict[str, Any] | None = None,
        lr_scheduler: dict[str, Any] | None = None,
        encoder_config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        optim.check_options(learning_rate, warmup_ratio, weight_decay)
        self.save_hyperparameters(ignore=["encoder_config"])
        self.pretrained = pretrained
        self.learning_rate = learning_rate  # tuners set it
        self._clipped: list[nn.Parameter] = []  # in the order of `parameters`, on which a norm's last digit depends
        self.tokenizer_files: dict[str, str] = {}  # texts by name, from the checkpoint that was loaded
        model, self.head_is_new = encoder.make_classifier(pretrained, class_names, pooling, encoder_config)
        self._attach(model)

    def _attach(self, model: "PreTrainedModel") -> None:
        """Take a classifier, and make the metrics and weights of its classes."""
        self.model = model.train()  # from_pretrained returns it in eval mode, and Lightning keeps that (PL#20105)
        self.hparams["encoder_config"] = encoder.config_content(model.config)
        self.loss_weights = LossWeights(self.hparams["class_weights"], model.config.num_labels)
        self.train_metrics = training_metrics(model.config.num_labels)
        self.val_metrics = evaluation_metrics(model.config.num_labels, "val/")
        self.test_metrics = evaluation_metrics(model.config.num_labels, "test/")
        dropout.install(model)
        if self.hparams["frozen_layers"]:
            freeze_layers(model, self.hparams["frozen_layers"])

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their numbers."""
        return classes.class_names(self.model.config)

    @property
    def backbone(self) -> nn.Module:
        """The encoder without its head, under the name that Lightning's BackboneFinetuning looks for."""
        return cast(nn.Module, self.model.base_model)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Leave out integers: Lightning's WeightAveraging would average position ids and truncate the result."""
        return (buffer for buffer in super().buffers(recurse) if buffer.is_floating_point())

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None, **_: Tensor
    ) -> Tensor:
        """Return the logits, shape (B, C), of a batch as Hugging Face's collators make it.

        `input_ids` are token ids, `attention_mask` is 1 for tokens and 0 for padding (None: no padding), and
        `token_type_ids` are 1 in a second sentence (None: all 0), each of shape (B, T). Other columns are not used.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return logits_of(self.model, inputs)

    def compute_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each row, shape (B,) and not reduced: cross-entropy of logits (B, C) and `labels` (B,)."""
        weights = self.loss_weights.values
        return F.cross_entropy(logits, batch["labels"], weights, ignore_index=IGNORED, reduction="none")

    def setup(self, stage: str) -> None:
        for metrics in (self.train_metrics, self.val_metrics, self.test_metrics):
            metrics.reset()  # another Trainer may have been stopped within an epoch
        with suppress(UserError):  # a checkpoint that is loaded later may bring other classes
            self._match_data()

    def on_train_start(self) -> None:
        """Train with the options of today, not with those of a checkpoint or of before a tuner ran."""
        self._match_data()
        self.head_is_new = False
        self._clipped = list(self.parameters())
        if not self.hparams["optimizer"] and isinstance(schedule := self.lr_schedulers(), optim.LinearSchedule):
            options = (self.hparams["warmup_ratio"], self.hparams["weight_decay"])
            schedule.refresh(self.learning_rate, *options, optim.total_steps(self.trainer))

    def training_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Return the `loss`, and `labels`, `preds` and `losses` of each row, all of shape (B,).

        The loss is the mean over rows, or the sum weighted by the batch's `weights` (B,), as the data module has them.
        """
        logits = self(**batch).float()
        labels, preds = batch["labels"], logits.argmax(dim=-1)
        losses = check_losses(self.compute_loss(logits, batch), labels)
        self.train_metrics.update(preds=preds, target=labels)
        self.log_dict(self.train_metrics, on_step=False, on_epoch=True)
        self.log("train/loss", losses.detach().sum() / (labels != IGNORED).sum().clamp_min(1), prog_bar=True)
        loss = (losses * batch["weights"]).sum() if "weights" in batch else losses.mean()
        return {"loss": loss, "losses": losses.detach(), "labels": labels, "preds": preds}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0:
            self.log("train/grad_norm", optim.gradient_norm(self._clipped))

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as the Trainer is told to; Lightning refuses to with a fused optimizer under autocast (PL#21435)."""
        optim.clip_gradients(self._clipped, gradient_clip_val, gradient_clip_algorithm)

    def validation_step(self, batch: Batch, batch_idx: int) -> Batch:
        return self._evaluation_step(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> Batch:
        return self._evaluation_step(batch, self.test_metrics)

    def _evaluation_step(self, batch: Batch, metrics: MetricCollection) -> Batch:
        """Return `labels`, `preds` and `losses` (B,) and `probs` (B, C); rows with label -100 count in no metric."""
        logits = self(**batch).float()
        labels, probs = batch["labels"], logits.softmax(dim=-1)
        losses = check_losses(self.compute_loss(logits, batch), labels)
        metrics.update(preds=probs, target=labels, losses=losses)
        self.log_dict(metrics)
        return {"losses": losses, "labels": labels, "preds": probs.argmax(dim=-1), "probs": probs}

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Return `preds` (B,) and `probs` (B, C), and the `index` (B,) of each row if the batch has it."""
        probs = self(**batch).float().softmax(dim=-1)
        index = {"index": batch["index"]} if "index" in batch else {}
        return {**index, "preds": probs.argmax(dim=-1), "probs": probs}

    def on_validation_start(self) -> None:
        self._match_data()
        if self.head_is_new and not self.trainer.sanity_checking:
            raise classes.untrained(f"--model.pretrained {self.pretrained}", self.model.config)

    on_test_start = on_predict_start = on_validation_start

    def _match_data(self) -> None:
        """Name and weigh the classes as the data module does; refuse data with other classes."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if classes.name_classes(self.model.config, data, self.head_is_new and not self.hparams.get("class_names")):
            self.hparams["encoder_config"] = encoder.config_content(self.model.config)
        self.loss_weights.update(data, self.trainer.training)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW over two decay groups with the linear schedule, or what `optimizer` and `lr_scheduler` name."""
        fused = self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        adamw = {"class_path": "torch.optim.AdamW", "init_args": {"lr": self.learning_rate, "fused": fused}}
        hparams = self.hparams
        optimizer = optim.make_optimizer(self, hparams["optimizer"] or adamw, hparams["weight_decay"])
        schedule = optim.make_schedule(optimizer, hparams["lr_scheduler"], hparams["warmup_ratio"], self.trainer)
        return cast(OptimizerLRScheduler, {"optimizer": optimizer, "lr_scheduler": schedule})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the tokenizer, so that a checkpoint suffices to predict."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        checkpoint["tokenizer_files"] = getattr(data, "tokenizer_files", None) or self.tokenizer_files
        checkpoint["own_forward"] = type(self).forward is not BertClassifier.forward
        checkpoint["class_name"] = type(self).__name__

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the encoder that the checkpoint describes if it is another one; refuse one of another start."""
        stored = checkpoint.get("hyper_parameters", {})
        if self._trainer is not None:
            encoder.check_start(stored.get("pretrained", self.pretrained), self.pretrained)
            if (name := checkpoint.get("class_name", own := type(self).__name__)) != own:
                status("class", f"checkpoint of {name}, read as {own}: use the script of {name}", err=True)
        if stored.get("encoder_config", self.hparams["encoder_config"]) != self.hparams["encoder_config"]:
            self._attach(encoder.build_classifier(stored["encoder_config"], "--ckpt_path"))
        self.head_is_new = False
        self.tokenizer_files = checkpoint.get("tokenizer_files", {})
