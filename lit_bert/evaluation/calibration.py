"""Whether probabilities can be believed, and temperature scaling, which makes them more believable.

Legend: N rows, C classes; `probs` have shape (N, C), `labels` are class numbers of shape (N,).
"""

import math

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from lit_bert.modeling.metrics import ECE_BINS
from lit_bert.modeling.outputs import SplitOutputs

MAX_TEMPERATURE = 20
"""Temperatures are looked for between its inverse and this: rows that are all predicted right would ask for 0."""


def expected_calibration_error(probs: Tensor, labels: Tensor) -> float:
    """Return how far confidence and accuracy are apart, averaged over bins of confidence, in [0, 1].

    Source: Guo et al. 2017, "On calibration of modern neural networks" (ICML), equation 3.
    """
    return float(multiclass_calibration_error(probs, labels, probs.shape[1], n_bins=ECE_BINS, validate_args=False))


def fit_temperature(probs: Tensor, labels: Tensor) -> float:
    """Return the temperature at which these rows are most likely; above 1 it makes predictions less confident.

    Source: Guo et al. 2017, section 4.2 (temperature scaling).
    """
    from scipy.optimize import minimize_scalar

    logits, limit = _logits(probs), math.log(MAX_TEMPERATURE)

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / math.exp(log_temperature), labels))

    return math.exp(minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x)


def apply_temperature(probs: Tensor, temperature: float) -> Tensor:
    """Return the probabilities that logits divided by `temperature` give, shape (N, C)."""
    return (_logits(probs) / temperature).softmax(dim=-1).to(probs.dtype)


def cross_validated_error(probs: Tensor, labels: Tensor, folds: int = 5) -> float:
    """Return the calibration error of rows at temperatures that were fitted on the other folds of them."""
    fold = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)) % folds
    scaled = probs.clone()
    for number in fold.unique().tolist():  # type: ignore[no-untyped-call]
        held, others = fold == number, fold != number
        if others.any():
            scaled[held] = apply_temperature(probs[held], fit_temperature(probs[others], labels[others]))
    return expected_calibration_error(scaled, labels)


def helps(temperature: float, error: float, cross_validated: float) -> bool:
    """Tell whether scaling is worth it: rows that it was not fitted on are calibrated better, and it is an optimum."""
    return cross_validated < error and abs(math.log(temperature)) < 0.99 * math.log(MAX_TEMPERATURE)


def _logits(probs: Tensor) -> Tensor:
    """Return logits that give these probabilities; all others that do differ by one number per row."""
    return probs.double().clamp_min(1e-38).log()


def calibration_metrics(val: SplitOutputs, test: SplitOutputs) -> dict[str, float]:
    """Return the `temperature` that fits validation rows, and the calibration error without and with it.

    Of the validation rows, `val_ece_calibrated` is with temperatures that were fitted on others of them.
    """
    temperature = fit_temperature(val["probs"], val["labels"])
    calibrated = apply_temperature(test["probs"], temperature)
    return {
        "temperature": temperature,
        "val_ece": expected_calibration_error(val["probs"], val["labels"]),
        "val_ece_calibrated": cross_validated_error(val["probs"], val["labels"]),
        "test_ece": expected_calibration_error(test["probs"], test["labels"]),
        "test_ece_calibrated": expected_calibration_error(calibrated, test["labels"]),
    }
