import argparse
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import Capture

PATH = Path(__file__).parent.parent / "benchmarks" / "throughput.py"


@pytest.fixture
def throughput() -> ModuleType:
    spec = importlib.util.spec_from_file_location("throughput", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_counts_sentences_tokens_and_padding_after_the_warm_up(throughput: ModuleType) -> None:
    clock = throughput.StepClock(started=0.0)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    for _ in range(4):
        clock.step(mask)
    clock.end()
    clock.begun, clock.ended = [0.0, 10.0, 11.0, 12.0], 14.0
    record = clock.record(warm_up=1)
    assert (record["train"], record["tokens"], record["padding_waste"]) == (6 / 4, 18 / 4, 0.25)


def test_reports_medians_of_ratios(throughput: ModuleType, tmp_path: Path, capsys: Capture) -> None:
    def rounds(**rates: float) -> list[dict[str, float]]:
        return [{name: rate * factor for name, rate in rates.items()} for factor in (1, 0.1, 3)]

    rest = {"padding_waste": 0.02, "seconds_to_first_step": 5.0, "peak_memory_mib": 1000.0, "checkpoint_seconds": 1.0}
    records = {
        "machine": rounds(bf16_gflops=1200.0, fp32_gflops=100.0),
        "ours": rounds(train=200.0, evaluate=600.0, predict=500.0, tokens=5e3, parameters=2e7, **rest),
        "bare": rounds(train=250.0, **rest),
        "tuned": rounds(train=100.0, evaluate=400.0, predict=250.0, **rest),
        "reference": rounds(train=2.0, **rest),
        "ours, busy": rounds(train=120.0, **rest),
        "tuned, busy": rounds(train=30.0, **rest),
        "ours, until": [{"seconds": 40.0}, {"seconds": 50.0}, {}],
        "tuned, until": [{"seconds": 60.0}] * 3,
    }
    settings = {"rounds": 3, "steps": 60, "batch": 32, "busy": 1, "until": 0.8, "encoder": "packaged"}
    options = argparse.Namespace(out=tmp_path / "runs" / "bench.json", **settings)
    throughput.report(records, options)
    written = json.loads(options.out.read_text())
    assert written["train_vs_reference"] == 100
    assert written["train_vs_bare"] == 0.8
    assert (written["train_vs_tuned"], written["evaluate_vs_tuned"], written["predict_vs_pipeline"]) == (2, 1.5, 2)
    assert written["fraction_of_matmul_rate"] == pytest.approx(6 * 5e3 * 2e7 / 1e9 / 1200)
    assert written["records"]["ours"][2]["train"] == 600
    assert written["train_vs_tuned_busy"] == 4
    said = capsys.readouterr().out
    assert "train_vs_tuned           2" in said
    assert "ours_seconds_until       40, 50, not reached" in said
