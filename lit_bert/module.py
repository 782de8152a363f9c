"""The LightningModule: encoder, loss, metrics, steps, optimizer.

Legend: B rows of a batch, T tokens of its longest row, C classes.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from lit_bert.callbacks.cuda_graphs import GraphedForward, graphed_forward
from lit_bert.callbacks.step_logging import is_logged_step, log_immediately
from lit_bert.errors import UserError
from lit_bert.modeling import classes, dropout, encoder, lora, metrics
from lit_bert.modeling import optimizer as optim
from lit_bert.modeling.forward import logits_of
from lit_bert.modeling.loss import ClassWeights, LossWeights
from lit_bert.modeling.outputs import EpochOutputs, SplitOutputs, check_losses, predictions, with_index

Batch = dict[str, Tensor]


class BertClassifier(LightningModule):
    """BERT with a classification head, for sentiment or other classes; trained with AdamW and a linear schedule.

    Args:
        pretrained: Encoder to start from: Hub model id (with "@" and a revision, if it is to be pinned), local folder,
            "packaged" (MiniLM-L6, a BERT of 22.7 M parameters, from the Python package index), or "packaged-base" (an
            MPNet of BERT-base's size, 109 M parameters, from there).
        class_names: Names of the classes, in the order of their numbers; null takes the model's own: two, if it is
            not fine-tuned yet.
        learning_rate: Peak learning rate of AdamW, reached after the warm-up.
        warmup_ratio: Fraction of optimizer steps over which the learning rate rises from 0, in [0, 1]; it then falls
            linearly to 0 at the last step.
        weight_decay: AdamW's decoupled weight decay; biases and LayerNorm are spared.
        class_weights: Weights of the classes in the loss, in their order; "balanced" makes each class weigh as much as
            any other, however many rows it has.
        pooling: "cls" classifies the last layer's first token, as BERT does; "mean" adds a layer to a BERT in which
            this token begins as the mean of all tokens, for encoders that were trained so (sentence-transformers).
        frozen_layers: Layers of the encoder that are not trained, from its embeddings on, and these, if it is above 0.
        lora_rank: Rank of matrices that are trained beside the encoder's own, which stay as they are (LoRA); 0 trains
            the encoder itself. They need a higher learning rate, and the extra `lora`. Pooler and head are trained.
        lora_targets: Last part of the names of the layers that get them, such as query; null takes all linear ones.
        cuda_graphs: Whether to train through CUDA graphs on a GPU, one for each length that batches are padded to. To
            be switched off for forward hooks in the encoder, which they do not run.
        optimizer: `class_path` and `init_args` (learning rate, weight decay) of another optimizer than AdamW.
        lr_scheduler: `class_path` and `init_args` of another schedule, stepped after each optimizer step.
        encoder_config: Content of a config.json, which checkpoints hold: the encoder is built from it, with random
            weights, and `pretrained` is not read.
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
        lora_rank: int = 0,
        lora_targets: list[str] | None = None,
        cuda_graphs: bool = True,
        optimizer: dict[str, Any] | None = None,
        lr_scheduler: dict[str, Any] | None = None,
        encoder_config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        most = {"learning_rate": float("inf"), "warmup_ratio": 1.0, "weight_decay": float("inf")}
        for option, limit in most.items():
            if not 0 <= (value := locals()[option]) <= limit:
                raise UserError(f"--model.{option} {value}: it must be between 0 and {limit:g}")
        self.save_hyperparameters(ignore=["encoder_config"])
        self.pretrained = pretrained
        self.learning_rate = learning_rate
        self.warmup_ratio = warmup_ratio
        self.weight_decay = weight_decay
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.mix_loss: Callable[[Tensor, Tensor, Batch], Tensor] | None = None
        """What a callback makes of each row's loss (B,) in training, its logits (B, C) and the batch: its loss (B,)."""
        self.all_finite = torch.tensor(True)  # every loss and gradient of this training
        self.tokenizer_files: dict[str, str] = {}  # texts by name, of the checkpoint that was loaded
        self._outputs = EpochOutputs()
        self._last_loss = torch.zeros(())
        self._graphed: GraphedForward | None = None
        self._clipped: list[nn.Parameter] = []
        self._schedule: LambdaLR | None = None
        model, self.head_is_new = encoder.make_classifier(pretrained, class_names, pooling, encoder_config)
        self.attach_model(model)

    def attach_model(self, model: Any) -> None:
        """Take a classifier of `transformers`, in training mode, and make the metrics of its classes."""
        self.model: Any = model.train()  # which Lightning leaves in eval mode, as it comes (PyTorch Lightning #20105)
        self.hparams["encoder_config"] = encoder.config_content(model.config)
        self.train_metrics, self.eval_metrics = metrics.make_metrics(model.config.num_labels)
        self.loss_weights = LossWeights(self.hparams["class_weights"], model.config.num_labels)
        dropout.install(model)
        lora.add_adapters(model, self.hparams["lora_rank"], self.hparams["lora_targets"])
        if self.hparams["frozen_layers"]:
            encoder.freeze_layers(model, self.hparams["frozen_layers"])

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their numbers."""
        return classes.class_names(self.model.config)

    @property
    def epoch_outputs(self) -> dict[str, SplitOutputs]:
        """The rows of the last whole epoch of "train", "val" and "test", of all ranks."""
        return self._outputs.epochs

    @property
    def backbone(self) -> nn.Module:
        """The encoder without its head, under the name that Lightning's BackboneFinetuning looks for."""
        return cast(nn.Module, self.model.base_model)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Leave out whole numbers: Lightning's WeightAveraging would average position ids, and truncate the result."""
        return (buffer for buffer in super().buffers(recurse) if buffer.is_floating_point())

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **other_columns: Tensor,
    ) -> Tensor:
        """Return the logits, shape (B, C), of what batches of Hugging Face's collators hold.

        `input_ids` are token ids, `attention_mask` is 1 for tokens and 0 for padding (None: there is none), and
        `token_type_ids` are 1 in a second sentence (None: all 0), each of shape (B, T). Other columns are not used.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return logits_of(self.model, self._graphed if self.training else None, inputs)

    def compute_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each row's loss, shape (B,) and not reduced, of logits (B, C) and labels (B,): cross-entropy."""
        return F.cross_entropy(logits, labels, weight=self.loss_weights.values, reduction="none")

    def configure_callbacks(self) -> list[Callback]:
        """Add none; refuse, before they are set up, those that LoRA cannot have."""
        lora.check_callbacks(self.hparams["lora_rank"], self.trainer.callbacks)  # type: ignore[attr-defined]
        return []

    def setup(self, stage: str) -> None:
        self._outputs.forget_steps()
        with suppress(UserError):  # which is raised when training starts: a checkpoint may bring other classes
            self._check_classes()

    def on_train_start(self) -> None:
        """Let today's options count, not those of a checkpoint or of before a tuner ran."""
        self._check_classes()
        self.head_is_new = False
        self.all_finite = torch.tensor(True, device=self.device)
        self._outputs.to(self.device)
        self._clipped = list(self.parameters())  # once, and not at each step
        self._graphed = graphed_forward(self.model, self.trainer) if self.hparams["cuda_graphs"] else None
        if self._schedule is not None and self._schedule is self.lr_schedulers():
            groups, steps = optim.decay_groups(self, self.weight_decay), optim.total_steps(self.trainer)
            optim.refresh(self._schedule, groups, self.learning_rate, self.warmup_ratio, steps)

    def on_train_end(self) -> None:
        self._graphed = None  # with its memory; it cannot be copied, either

    def on_train_epoch_start(self) -> None:
        if self._schedule is not None and self._schedule is self.lr_schedulers():
            optim.include_added_groups(self._schedule)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of the rows of a batch, or with `weights` (B,) of the data module the weighted sum."""
        logits = self(**batch).float()
        losses = check_losses(self.compute_loss(logits, batch["labels"]), batch["labels"])
        outputs = {"labels": batch["labels"], "preds": logits.argmax(dim=-1), "loss": losses.detach()}
        self._outputs.add("train", batch, outputs)
        if self.mix_loss is not None:
            losses = self.mix_loss(losses, logits, batch)
        if is_logged_step(self.trainer):
            self._last_loss = losses.detach().mean()
        mean = (losses * batch["weights"]).sum() if "weights" in batch else losses.mean()
        self.all_finite = self.all_finite & mean.detach().isfinite()
        return mean

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as the Trainer is told to, and log the learning rate and the gradient's norm before clipping."""
        norm = optim.clip_gradients(self._clipped, gradient_clip_val, gradient_clip_algorithm)
        if self.trainer.precision != "16-mixed":  # there an infinite gradient is skipped, and the scale lowered
            self.all_finite = self.all_finite & norm.isfinite()
        if is_logged_step(self.trainer):
            rate = optimizer.param_groups[0]["lr"]
            values = {"train/loss": float(self._last_loss), "train/grad_norm": norm, "train/lr": rate}
            log_immediately(self.loggers, values, self.global_step)
            # Of a value on the GPU, Lightning's bars would wait for it at each step until there is a new one.
            self.log("train/loss", torch.tensor(values["train/loss"]), prog_bar=True, logger=False)

    def on_train_epoch_end(self) -> None:
        self._shared_epoch_end("train", self.trainer.train_dataloader)

    def on_validation_start(self) -> None:
        self._check_classes()
        if self.head_is_new and not self.trainer.sanity_checking:
            raise classes.untrained(f"--model.pretrained {self.pretrained}", self.model.config)

    on_test_start = on_predict_start = on_validation_start

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._shared_eval_step(batch, "val")

    def on_validation_epoch_end(self) -> None:
        self._shared_epoch_end("val", self.trainer.val_dataloaders)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._shared_eval_step(batch, "test")

    def on_test_epoch_end(self) -> None:
        self._shared_epoch_end("test", self.trainer.test_dataloaders)

    def _shared_eval_step(self, batch: Batch, split: str) -> None:
        """Keep the predictions of a batch, with `labels` (B,) and each row's `loss` (B,), until the epoch ends."""
        logits = self(**batch).float()
        losses = check_losses(self.compute_loss(logits, batch["labels"]), batch["labels"])
        self._outputs.add(split, batch, {**predictions(logits), "labels": batch["labels"], "loss": losses})

    def _shared_epoch_end(self, split: str, loader: Any) -> None:
        """Gather the rows of all ranks, and log the metrics of them: the same values on every rank."""
        if outputs := self._outputs.end_epoch(split, loader, self.global_step):
            values = {f"{split}/{name}": value for name, value in self.compute_metrics(outputs).items()}
            self.log_dict(values, logger=False if split == "train" else None, batch_size=len(outputs["labels"]))
            if split == "train":
                log_immediately(self.loggers, values, self.global_step - 1)

    def compute_metrics(self, outputs: SplitOutputs) -> dict[str, Tensor]:
        """Return "acc" and "f1"; of rows that were evaluated "auroc", "ece" and "loss", too."""
        return metrics.compute_metrics(self.eval_metrics if "probs" in outputs else self.train_metrics, outputs)

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Return each row's predicted class `preds` (B,), `probs` (B, C), and `index` (B,) if the batch has it."""
        return with_index(batch, predictions(self(**batch).float()))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW over two decay groups with the linear schedule, or what `optimizer` and `lr_scheduler` name."""
        own = (self.optimizer or {}).get("init_args", {})
        groups = optim.decay_groups(self, own.get("weight_decay", self.weight_decay))
        fused = self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        adamw = {"class_path": "torch.optim.AdamW", "init_args": {"lr": self.learning_rate, "fused": fused}}
        optimizer = optim.make(Optimizer, self.optimizer or adamw, groups)
        if self.lr_scheduler:
            scheduler = optim.make(LRScheduler, self.lr_scheduler, optimizer)
        else:
            scheduler = optim.linear_schedule(optimizer, self.warmup_ratio, optim.total_steps(self.trainer))
            self._schedule = None if self.optimizer else scheduler
        return cast(OptimizerLRScheduler, {"optimizer": optimizer, "lr_scheduler": optim.scheduler_config(scheduler)})

    def _check_classes(self) -> None:
        """Name and weigh the classes as the data module does, unless they were named; refuse other ones."""
        data = getattr(self.trainer, "datamodule", None)
        if classes.name_classes(self.model.config, data, self.head_is_new and not self.hparams.get("class_names")):
            self.hparams["encoder_config"] = encoder.config_content(self.model.config)
        self.loss_weights.update(data, self.trainer.training)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put beside the weights: the tokenizer, what this epoch has seen so far, and a validation of these weights."""
        data = getattr(self.trainer, "datamodule", None)
        checkpoint["tokenizer_files"] = getattr(data, "tokenizer_files", None) or self.tokenizer_files
        checkpoint["own_forward"] = type(self).forward is not BertClassifier.forward
        checkpoint.update(self._outputs.state_dict(self.global_step))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the encoder that the checkpoint describes, if it is another one; refuse one of another start."""
        stored = checkpoint.get("hyper_parameters", {})
        if self._trainer is not None:
            encoder.check_start(stored.get("pretrained", self.pretrained), self.pretrained)
        if stored.get("encoder_config", self.hparams["encoder_config"]) != self.hparams["encoder_config"]:
            self.attach_model(encoder.build_classifier(stored["encoder_config"], "--ckpt_path"))
        if "state_dict" in checkpoint:  # which some strategies take out
            lora.check_adapters(checkpoint["state_dict"], self)
        self.head_is_new = False
        self.tokenizer_files = checkpoint.get("tokenizer_files", {})
        if self._trainer is not None and self.trainer.training:
            self._outputs.load_state_dict(checkpoint, self.trainer.is_global_zero)
