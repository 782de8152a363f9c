"""The reference recipe is what `transformers.Trainer` does with its defaults: step by step, number by number."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONFIGS, events, write_csv
from lightning.pytorch import seed_everything
from torch.utils.data import Sampler
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from lit_bert.cli import main
from lit_bert.data.collate import collate
from lit_bert.data.sampler import LengthGroupedSampler

ROWS = {"train": 50, "val": 20, "test": 20}  # 7 steps an epoch, the last of 2 rows


class EachEpoch(Sampler[int]):
    """Our order of rows, for a Trainer that does not tell the epoch."""

    def __init__(self, order: LengthGroupedSampler) -> None:
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self):
        yield from (row for row, _ in self.order)
        self.order.set_epoch(self.order.epoch + 1)


class Recorded(Trainer):
    """`transformers.Trainer`, fed with our rows, its losses and learning rates written down at each step."""

    def __init__(self, order: LengthGroupedSampler, **kwargs) -> None:
        super().__init__(**kwargs)
        self.order, self.losses, self.rates = order, [], []

    def _get_train_sampler(self, dataset=None):
        return EachEpoch(self.order)

    def compute_loss(self, model, inputs, *args, **kwargs):
        outcome = super().compute_loss(model, inputs, *args, **kwargs)
        if model.training:
            self.losses.append(outcome.item())
            self.rates.append(self.optimizer.param_groups[0]["lr"])
        return outcome


def test_reference_recipe_equals_hf_trainer(still_bert: str, tmp_path: Path) -> None:
    folder = tmp_path / "reviews"
    folder.mkdir()
    for split, copies in (("train", 5), ("validation", 2), ("test", 2)):
        write_csv(folder / f"{split}.csv", copies)
    words = [f"--data.{name}_rows={rows}" for name, rows in ROWS.items()]
    words += [f"--model.pretrained={still_bert}", f"--data.dataset={folder}", "--trainer.log_every_n_steps=1"]
    cli = main(["fit", "--config", str(CONFIGS / "reference.yaml"), *words])
    ours = events(cli.run_dir)

    rows = cli.datamodule.splits
    settings = TrainingArguments(tmp_path / "theirs", eval_strategy="epoch", logging_steps=1, report_to="none")
    settings.remove_unused_columns = settings.dataloader_pin_memory = False
    lengths = np.array([len(ids) for ids in rows["train"]["input_ids"]])
    order = LengthGroupedSampler(lengths, 8, shuffle=True, group_by_length=False, seed=1)

    def batch(sentences):
        made = collate(sentences, pad_token_id=0, lengths=[32])
        made.pop("index")
        return made

    seed_everything(99)  # nothing may depend on it
    theirs = Recorded(
        order,
        model=AutoModelForSequenceClassification.from_pretrained(still_bert),
        args=settings,
        data_collator=batch,
        train_dataset=rows["train"],
        eval_dataset=rows["test"],
        compute_metrics=lambda result: {"accuracy": float((result[0].argmax(-1) == result[1]).mean())},
    )
    theirs.train()
    log = theirs.state.log_history

    assert len(theirs.losses) == 21
    assert ours["train/loss"] == pytest.approx(theirs.losses, abs=1e-5)
    assert ours["train/lr/pg1"] == pytest.approx(theirs.rates, rel=1e-5)
    norms = [entry["grad_norm"] for entry in log if "grad_norm" in entry]
    assert ours["train/grad_norm"] == pytest.approx(norms, rel=1e-5, abs=1e-5)
    assert max(norms) > 1 > min(norms)
    accuracies = [entry["eval_accuracy"] for entry in log if "eval_accuracy" in entry]
    assert ours["val/acc"] == pytest.approx(accuracies, abs=1e-7)
    assert len(set(accuracies)) > 1
    weights = theirs.model.state_dict()
    for name, value in cli.model.model.state_dict().items():
        torch.testing.assert_close(value, weights[name], atol=1e-5, rtol=1e-4, msg=name)
