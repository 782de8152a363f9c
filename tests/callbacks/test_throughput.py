from pathlib import Path

import pytest
from conftest import events

from lit_bert.callbacks import throughput
from lit_bert.cli import main
from lit_bert.run import hardware


def test_counts_the_tokens_and_the_padding_of_an_epoch(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "measure_matmul_gflops", lambda device, bf16: 100.0)
    cli = main(["fit", "--config", recipe, "--trainer.max_epochs=1", "--test_after_fit=false"])
    real = computed = 0
    for batch in cli.datamodule.train_dataloader():
        real += int((batch["input_ids"] != 0).sum())
        computed += batch["input_ids"].numel()
    scalars = events(cli.run_dir)
    assert scalars["train/padding_waste"] == [pytest.approx(1 - real / computed)]
    sentences, tokens = scalars["train/samples_per_sec"][0], scalars["train/tokens_per_sec"][0]
    assert tokens / sentences == pytest.approx(real / 40)
    weights = sum(p.numel() for name, p in cli.model.named_parameters() if "embeddings" not in name)
    assert scalars["train/gflops"] == [pytest.approx(6 * weights * tokens / 1e9)]


def test_weights_that_are_not_trained_count_less_and_are_told(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(throughput, "measure_matmul_gflops", lambda device, bf16: 100.0)
    words = ["--trainer.max_epochs=1", "--test_after_fit=false", "--export_after_fit=false", "--model.frozen_layers=1"]
    cli = main(["fit", "--config", recipe, *words])
    weights = [p for name, p in cli.model.named_parameters() if "embeddings" not in name]
    trained = sum(p.numel() for p in weights if p.requires_grad)
    frozen = sum(p.numel() for p in weights) - trained
    scalars = events(cli.run_dir)
    tokens = scalars["train/tokens_per_sec"][0]
    assert scalars["train/gflops"] == [pytest.approx((6 * trained + 4 * frozen) * tokens / 1e9)]
    assert f"of which training starts with {trained:,}" in capsys.readouterr().out


def test_a_row_padded_to_max_length_counts_all_of_it(recipe: str) -> None:
    words = ["--trainer.max_epochs=1", "--test_after_fit=false", "--data.padding=max_length"]
    cli = main(["fit", "--config", recipe, *words, "--trainer.limit_train_batches=2"])
    real = sum(sorted(map(len, cli.datamodule.splits["train"]["input_ids"]))) / 40
    assert events(cli.run_dir)["train/padding_waste"][0] == pytest.approx(1 - real / 32, abs=0.1)


def test_the_rate_of_this_machine_is_a_rate(tmp_path: Path) -> None:
    assert hardware.measure_matmul_gflops("cpu", bf16=False) > 0.1
