"""Training through CUDA graphs: on a GPU as it is, elsewhere with graphs whose replays run the model itself."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import QUIET
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning

from lit_bert import BertClassifier, TextClassificationDataModule
from lit_bert.callbacks import cuda_graphs as graphs
from lit_bert.callbacks.cuda_graphs import Graph, GraphedForward
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
                self.live = self.model(**inputs).logits
            logits.copy_(self.live.detach())

        def backward() -> None:
            gradients = torch.autograd.grad(self.live, self._trained, logits_gradient)
            torch.cat([gradient.reshape(-1) for gradient in gradients], out=buffer)

        passes = [SimpleNamespace(replay=replay) for replay in (forward, backward)]
        return Graph(*passes, list(inputs.values()), logits, logits_gradient, buffer)


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """What a training on the CPU makes in place of CUDA graphs."""
    made: list[Recording] = []

    def make(model: Any, trainer: Trainer) -> Recording:
        made.append(Recording(model, trainer.train_dataloader.batch_size))  # type: ignore[union-attr]
        return made[-1]

    monkeypatch.setattr("lit_bert.module.graphed_forward", make)
    return made


def fit(
    start: str, reviews: Path, model: LightningModule | None = None, batch_size: int = 16, **settings: Any
) -> dict[str, torch.Tensor]:
    """Return the weights after two epochs of 40 rows, padded to 6 or 8 tokens."""
    data = TextClassificationDataModule(str(reviews), start, batch_size=batch_size, padding=[6, 8])
    model = model or BertClassifier(start, learning_rate=0.003)
    Trainer(**{**QUIET, "max_epochs": 2, "gradient_clip_val": 1.0, "limit_val_batches": 0, **settings}).fit(model, data)
    return {name: value.cpu().clone() for name, value in model.state_dict().items() if "key.bias" not in name}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"accumulate_grad_batches": 3}], ids=str)
def test_it_follows_the_same_path(
    still_bert: str, reviews: Path, recordings: list[Recording], settings: dict[str, Any]
) -> None:
    with_graphs = fit(still_bert, reviews, **settings)
    [recording] = recordings
    assert set(recording.recorded) <= {(16, 6), (16, 8)}
    assert len(recording.recorded) == len(set(recording.recorded)) > 0
    equal(
        fit(still_bert, reviews, BertClassifier(still_bert, learning_rate=0.003, cuda_graphs=False), **settings),
        with_graphs,
    )
    assert len(recordings) == 1


def test_parameters_that_are_unfrozen_are_trained(still_bert: str, reviews: Path, recordings: list[Recording]) -> None:
    def unfreeze() -> BackboneFinetuning:
        return BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=1e-3)

    with_graphs = fit(still_bert, reviews, callbacks=[unfreeze()])
    plain = BertClassifier(still_bert, learning_rate=0.003, cuda_graphs=False)
    equal(fit(still_bert, reviews, plain, callbacks=[unfreeze()]), with_graphs)
    assert len(recordings[0].recorded) > len(set(recordings[0].recorded))  # anew for the second epoch


def test_a_step_with_two_forward_passes(still_bert: str, reviews: Path, recordings: list[Recording]) -> None:
    class Twice(BertClassifier):
        def training_step(self, batch, batch_idx):
            half = self(
                **{**batch, "input_ids": batch["input_ids"].flip(0), "attention_mask": batch["attention_mask"].flip(0)}
            )
            return super().training_step(batch, batch_idx) + half.pow(2).mean()

    with_graphs = fit(still_bert, reviews, Twice(still_bert, learning_rate=0.003))
    equal(fit(still_bert, reviews, Twice(still_bert, learning_rate=0.003, cuda_graphs=False)), with_graphs)
    assert recordings[0].recorded


def forward_of(still_bert: str) -> Recording:
    return Recording(BertClassifier(still_bert).model, rows=2)


def batch(width: int, rows: int = 2) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.full((rows, width), 5), "attention_mask": torch.ones(rows, width, dtype=torch.long)}


def test_small_batches_and_too_many_shapes_are_computed_without(
    still_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "MOST_SHAPES", 2)
    forward = forward_of(still_bert)
    for width in (4, 5, 6, 4):
        forward(**batch(width)).sum().backward()
    forward(**batch(4, rows=1)).sum().backward()
    with torch.no_grad():
        forward(**batch(7))
    assert forward.recorded == [(2, 4), (2, 5)]


def test_a_second_backward_pass_is_refused(still_bert: str) -> None:
    loss = forward_of(still_bert)(**batch(4)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(UserError, match=r"--model\.cuda_graphs false"):
        loss.backward()


def test_a_model_that_cannot_be_recorded_is_trained_without(
    still_bert: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("it waits for the GPU")

    forward = forward_of(still_bert)
    monkeypatch.setattr(forward, "_record", fail)
    for _ in range(2):
        forward(**batch(4)).sum().backward()
    line = "graphs   CUDA graphs cannot serve this model (it waits for the GPU); training goes on without"
    assert capsys.readouterr().out.splitlines() == [line]


def test_batches_have_few_lengths_on_a_gpu_alone(reviews: Path, tiny_bert: str) -> None:
    data = TextClassificationDataModule(str(reviews), tiny_bert, max_length=20)
    data.prepare_data()
    data.setup("fit")
    assert data.padded_lengths == []
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cuda")))  # type: ignore[assignment]
    assert data.padded_lengths == [16, 20]
    data.padding = "longest"
    assert data.padded_lengths == []


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
    tiny_bert: str, reviews: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any]
) -> None:
    weights = []
    for cuda_graphs in (True, False):
        torch.manual_seed(0)
        model = BertClassifier(tiny_bert, learning_rate=0.003, cuda_graphs=cuda_graphs)
        weights.append(fit(tiny_bert, reviews, model, accelerator="gpu", **settings))
    assert "graphs" not in capsys.readouterr().out
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


@on_a_gpu
def test_on_a_gpu_no_step_waits_for_it(tiny_bert: str, reviews: Path) -> None:
    """Trap: Lightning reads what a bar shows at each step, not only where it was logged (`_ResultCollection`)."""

    class Watched(BertClassifier):
        def on_train_batch_start(self, batch, batch_idx):
            if self.global_step == 7:  # after the logged step 6, to the end of the second epoch
                torch.cuda.set_sync_debug_mode("error")

        def on_train_epoch_end(self):
            torch.cuda.set_sync_debug_mode("default")
            super().on_train_epoch_end()

    fit(tiny_bert, reviews, Watched(tiny_bert), batch_size=8, accelerator="gpu", log_every_n_steps=7)
