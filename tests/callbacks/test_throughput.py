from pathlib import Path

import pytest
from conftest import NO_END, Capture, events

from lit_bert.cli import main
from lit_bert.run import hardware


@pytest.mark.parametrize("frozen", [0, 1])
def test_counts_tokens_padding_and_arithmetic_of_an_epoch(recipe: str, frozen: int, capsys: Capture) -> None:
    cli = main(["fit", "--config", recipe, "--trainer.max_epochs=1", *NO_END, f"--model.frozen_layers={frozen}"])
    real = computed = 0
    for batch in cli.datamodule.train_dataloader():
        real += int((batch["input_ids"] != 0).sum())
        computed += batch["input_ids"].numel()
    scalars = events(cli.run_dir)
    assert scalars["train/padding_waste"] == [pytest.approx(1 - real / computed)]
    sentences, tokens = scalars["train/samples_per_sec"][0], scalars["train/tokens_per_sec"][0]
    assert tokens / sentences == pytest.approx(real / 40)
    weights = [p for name, p in cli.model.named_parameters() if "embeddings" not in name]
    trained = sum(p.numel() for p in weights if p.requires_grad)
    untrained = sum(p.numel() for p in weights) - trained
    assert bool(untrained) == bool(frozen)
    assert scalars["train/gflops"] == [pytest.approx((6 * trained + 4 * untrained) * tokens / 1e9)]
    assert (f"of which training starts with {trained:,}" in capsys.readouterr().out) == bool(frozen)


def test_the_rate_of_this_machine_is_a_rate(tmp_path: Path) -> None:
    assert hardware.measure_matmul_gflops("cpu", bf16=False) > 0.1
