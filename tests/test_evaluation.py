import pytest
import torch

from lit_bert import calibration, evaluation


def test_trust_is_of_test_rows_with_the_temperature_of_validation_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = {}
    for split, more in (("val", 3.0), ("test", 2.0)):
        logits = torch.randn(20_000, 2, generator=generator)
        labels = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).flatten()
        rows[split] = {"probs": (more * logits).softmax(dim=-1), "labels": labels}
    found = evaluation.trust(rows["val"], rows["test"])
    probs, labels = rows["test"]["probs"], rows["test"]["labels"]
    assert found["temperature"] == pytest.approx(3, rel=0.05)
    assert found["test_ece"] == calibration.error(probs, labels)
    assert found["test_ece_calibrated"] == calibration.error(calibration.scaled(probs, found["temperature"]), labels)
    assert found["test_ece_calibrated"] < found["test_ece"]
