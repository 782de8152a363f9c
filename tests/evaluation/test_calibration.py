import pytest
import torch

from lit_bert.evaluation.calibration import (
    apply_temperature,
    calibration_metrics,
    cross_validate,
    expected_calibration_error,
    fit_temperature,
)


def test_the_temperature_of_overconfident_probabilities_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 3, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).flatten()  # the truth is as uncertain
    probs = (3 * logits).softmax(dim=-1)
    temperature = fit_temperature(probs, labels)
    assert temperature == pytest.approx(3, rel=0.03)
    scaled = apply_temperature(probs, temperature)
    assert torch.equal(scaled.argmax(dim=-1), probs.argmax(dim=-1))
    assert expected_calibration_error(probs, labels) > 0.2
    assert expected_calibration_error(scaled, labels) < 0.02


def test_rows_that_are_all_right_or_certain_have_a_temperature_too() -> None:
    probs = torch.tensor([[0.9, 0.1], [0.0, 1.0]])
    assert 0.05 <= fit_temperature(probs, torch.tensor([0, 1])) < 0.1
    assert 10 < fit_temperature(probs, torch.tensor([1, 0])) <= 20.001


def test_error_of_two_bins() -> None:
    probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    labels = torch.tensor([0, 1, 1, 1])  # sure at 0.9, right at 0.5; at 0.6, right always
    assert expected_calibration_error(probs, labels) == pytest.approx((0.4 + 0.4) / 2)


def test_temperature_one_changes_nothing() -> None:
    probs = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    torch.testing.assert_close(apply_temperature(probs, 1.0), probs)


def test_whether_it_helps_is_told_by_rows_split_in_two() -> None:
    told = {1.0: 0, 3.0: 0}
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(200, 2, generator=generator)
        labels = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).flatten()
        for more in told:
            error, helps = cross_validate((more * logits).softmax(dim=-1), labels)
            told[more] += helps
            assert error < 0.12
    assert told[1.0] <= 3  # as they are, the probabilities are right
    assert told[3.0] == 10
    assert cross_validate(torch.tensor([[0.9, 0.1]]), torch.tensor([0])) == (pytest.approx(0.1), False)


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
    calibrated = apply_temperature(probs, metrics["temperature"])
    assert metrics["test_ece_calibrated"] == expected_calibration_error(calibrated, labels)
    assert metrics["test_ece_calibrated"] < metrics["test_ece"]
