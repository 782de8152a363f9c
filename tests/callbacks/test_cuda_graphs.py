"""Training through CUDA graphs: on a GPU as it is, elsewhere with graphs whose replays run the model itself."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import QUIET, Capture, Patch
from equality import same
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning
from models import Weights, close, weights_of

from lit_bert import BertClassifier, TextClassificationDataModule
from lit_bert.callbacks import cuda_graphs
from lit_bert.callbacks.cuda_graphs import CudaGraphs, Graph, GraphedForward
from lit_bert.data.collate import padded_lengths
from lit_bert.errors import UserError

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


class Recording(GraphedForward):
    """Its graphs read and write the same memory at each replay, as real ones do."""

    def __init__(self, model: Any, rows: int) -> None:
        super().__init__(model, rows)
        self.recorded: list[tuple[int, ...]] = []

    def _record(self, inputs: dict[str, torch.Tensor]) -> Graph:
        self.recorded.append(tuple(inputs["input_ids"].shape))
        inputs = {name: value.clone() for name, value in inputs.items()}
        self._trained = [parameter for parameter in self._parameters if parameter.requires_grad]
        if self._gradients is None:
            self._gradients = torch.empty(sum(parameter.numel() for parameter in self._trained))
        logits, logits_gradient, buffer = torch.zeros(self.rows, 2), torch.zeros(self.rows, 2), self._gradients

        def forward() -> None:
            with torch.enable_grad():
                self.live = self.forward(**inputs).logits
            logits.copy_(self.live.detach())

        def backward() -> None:
            gradients = torch.autograd.grad(self.live, self._trained, logits_gradient)
            torch.cat([gradient.reshape(-1) for gradient in gradients], out=buffer)

        passes = [SimpleNamespace(replay=replay) for replay in (forward, backward)]
        return Graph(*passes, list(inputs.values()), logits, logits_gradient, buffer)


class RecordingGraphs(CudaGraphs):
    """What it makes on the CPU in place of CUDA graphs."""

    def __init__(self) -> None:
        self.made: list[Recording] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.made.append(Recording(pl_module.model, trainer.train_dataloader.batch_size))  # type: ignore[union-attr]
        pl_module.model.forward = self.made[-1]


def fit(
    start: str,
    reviews: Path,
    *callbacks: Callback,
    model: LightningModule | None = None,
    batch_size: int = 16,
    **settings: Any,
) -> Weights:
    """Return the weights after two epochs of 40 rows, padded to 6 or 8 tokens."""
    data = TextClassificationDataModule(str(reviews), start, batch_size=batch_size, padding=[6, 8])
    model = model or BertClassifier(start, learning_rate=0.003)
    usual = {"max_epochs": 2, "gradient_clip_val": 1.0, "limit_val_batches": 0, "callbacks": [*callbacks]}
    Trainer(**{**QUIET, **usual, **settings}).fit(model, data)
    return weights_of(model)


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"accumulate_grad_batches": 3}], ids=str)
def test_it_follows_the_same_path(still_bert: str, reviews: Path, settings: dict[str, Any]) -> None:
    graphs = RecordingGraphs()
    with_graphs = fit(still_bert, reviews, graphs, **settings)
    [recording] = graphs.made
    assert set(recording.recorded) <= {(16, 6), (16, 8)}
    assert len(recording.recorded) == len(set(recording.recorded)) > 0
    close(fit(still_bert, reviews, **settings), with_graphs)


def test_parameters_that_are_unfrozen_are_trained(still_bert: str, reviews: Path) -> None:
    def unfreeze() -> BackboneFinetuning:
        return BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=1e-3)

    graphs = RecordingGraphs()
    with_graphs = fit(still_bert, reviews, graphs, unfreeze())
    close(fit(still_bert, reviews, unfreeze()), with_graphs)
    recorded = graphs.made[0].recorded
    assert len(recorded) > len(set(recorded))  # anew for the second epoch


def test_a_step_with_two_forward_passes(still_bert: str, reviews: Path) -> None:
    class Twice(BertClassifier):
        def training_step(self, batch, batch_idx):
            flipped = {name: batch[name].flip(0) for name in ("input_ids", "attention_mask")}
            half = self(**{**batch, **flipped})
            outputs = super().training_step(batch, batch_idx)
            return {**outputs, "loss": outputs["loss"] + half.pow(2).mean()}

    graphs = RecordingGraphs()
    with_graphs = fit(still_bert, reviews, graphs, model=Twice(still_bert, learning_rate=0.003))
    close(fit(still_bert, reviews, model=Twice(still_bert, learning_rate=0.003)), with_graphs)
    assert graphs.made[0].recorded


def test_the_model_is_left_as_it_was(still_bert: str, reviews: Path) -> None:
    model = BertClassifier(still_bert, learning_rate=0.003)
    forward = model.model.forward
    fit(still_bert, reviews, RecordingGraphs(), model=model)
    assert model.model.forward == forward
    fit(still_bert, reviews, CudaGraphs(), model=model)  # without a GPU
    assert model.model.forward == forward


def forward_of(still_bert: str) -> Recording:
    return Recording(BertClassifier(still_bert).model, rows=2)


def batch(width: int, rows: int = 2) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.full((rows, width), 5), "attention_mask": torch.ones(rows, width, dtype=torch.long)}


def test_small_batches_and_too_many_shapes_are_computed_without(still_bert: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(cuda_graphs, "MOST_SHAPES", 2)
    forward = forward_of(still_bert)
    for width in (4, 5, 6, 4):
        forward(**batch(width)).logits.sum().backward()
    forward(**batch(4, rows=1)).logits.sum().backward()
    with torch.no_grad():
        forward(**batch(7))
    assert forward.recorded == [(2, 4), (2, 5)]


def test_a_second_backward_pass_is_refused(still_bert: str) -> None:
    loss = forward_of(still_bert)(**batch(4)).logits.sum()
    loss.backward(retain_graph=True)
    with pytest.raises(UserError, match=r"--model\.cuda_graphs false"):
        loss.backward()


def test_what_cannot_be_recorded_is_trained_without(still_bert: str, monkeypatch: Patch, capsys: Capture) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("it waits for the GPU")

    forward = forward_of(still_bert)
    monkeypatch.setattr(forward, "_record", fail)
    for _ in range(2):
        forward(**batch(4)).logits.sum().backward()
    line = "graphs   CUDA graphs cannot serve this model (it waits for the GPU); training goes on without"
    assert capsys.readouterr().out.splitlines() == [line]


@pytest.mark.parametrize(
    ("padding", "on_gpu", "lengths"),
    [(None, False, []), (None, True, [16, 20]), ("longest", True, []), ("max_length", False, [20]), ([4], True, [4])],
)
def test_batches_have_few_lengths_on_a_gpu_alone(padding: Any, on_gpu: bool, lengths: list[int]) -> None:
    assert padded_lengths(padding, 20, on_gpu) == lengths


@on_a_gpu
@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "32-true"},
        {"precision": "bf16-mixed"},
        {"precision": "16-mixed"},
        {"accumulate_grad_batches": 2},
        {"strategy": "ddp", "devices": 1},
    ],
    ids=str,
)
def test_on_a_gpu_the_path_is_the_same_to_the_last_bit(
    tiny_bert: str, reviews: Path, capsys: Capture, settings: dict[str, Any]
) -> None:
    weights = []
    for callbacks in ([CudaGraphs()], []):
        torch.manual_seed(0)
        weights.append(fit(tiny_bert, reviews, *callbacks, accelerator="gpu", **settings))
    assert "graphs" not in capsys.readouterr().out
    same(*weights)


@on_a_gpu
def test_on_a_gpu_no_step_waits_for_it(tiny_bert: str, reviews: Path) -> None:
    """Trap: Lightning reads what a bar shows at each step, not only where it was logged (`_ResultCollection`)."""

    class Watched(BertClassifier):
        def on_train_batch_start(self, batch, batch_idx):
            if self.global_step == 7:  # after the logged step 6, to the end of the second epoch
                torch.cuda.set_sync_debug_mode("error")

        def on_train_epoch_end(self):
            torch.cuda.set_sync_debug_mode("default")

    options: dict[str, Any] = {"batch_size": 8, "accelerator": "gpu", "log_every_n_steps": 7}
    fit(tiny_bert, reviews, CudaGraphs(), model=Watched(tiny_bert), **options)
