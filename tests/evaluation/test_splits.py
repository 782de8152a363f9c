import pytest
import torch

from lit_bert.evaluation.calibration import apply_temperature, expected_calibration_error
from lit_bert.evaluation.splits import calibration_metrics


def test_calibration_is_of_test_rows_with_the_temperature_of_validation_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = {}
    for split, more in (("val", 3.0), ("test", 2.0)):
        logits = torch.randn(20_000, 2, generator=generator)
        labels = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).flatten()
        outputs[split] = {"probs": (more * logits).softmax(dim=-1), "labels": labels}
    metrics = calibration_metrics(outputs["val"], outputs["test"])
    probs, labels = outputs["test"]["probs"], outputs["test"]["labels"]
    assert metrics["temperature"] == pytest.approx(3, rel=0.05)
    assert metrics["test_ece"] == expected_calibration_error(probs, labels)
    assert metrics["test_ece_calibrated"] == expected_calibration_error(
        apply_temperature(probs, metrics["temperature"]), labels
    )
    assert metrics["test_ece_calibrated"] < metrics["test_ece"]
