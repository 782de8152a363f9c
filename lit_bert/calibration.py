"""Whether probabilities can be believed, and one number that makes them more believable."""

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

BINS = 15
"""Bins of equal width of the calibration error."""


def error(probs: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error, in [0, 1]: how far confidence and accuracy are apart, averaged over bins.

    Args:
        probs: Probabilities of the classes, shape (rows, classes).
        labels: Class numbers, shape (rows,).

    Source: Guo et al. 2017, "On calibration of modern neural networks" (ICML), equation 3.
    """
    found = multiclass_calibration_error(probs, labels, num_classes=probs.shape[1], n_bins=BINS, validate_args=False)
    return float(found)


def temperature(probs: Tensor, labels: Tensor) -> float:
    """Return what to divide logits by so that these rows are most likely; above 1 it makes predictions less confident.

    It is sought between 1/20 and 20: of rows that are all predicted right, the likeliest would be 0.

    Args:
        probs: Probabilities of the classes, shape (rows, classes).
        labels: Class numbers, shape (rows,).

    Source: Guo et al. 2017, section 4.2 (temperature scaling).
    """
    from scipy.optimize import minimize_scalar

    logits = _logits(probs)

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / torch.tensor(log_temperature).exp(), labels))

    limit = float(torch.tensor(20.0).log())
    return float(torch.tensor(minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x).exp())


def scaled(probs: Tensor, temperature: float) -> Tensor:
    """Return the probabilities that logits divided by `temperature` give, shape (rows, classes)."""
    return (_logits(probs) / temperature).softmax(dim=-1).to(probs.dtype)


def _logits(probs: Tensor) -> Tensor:
    """Return logits that give these probabilities; the others that do differ by a number for each row."""
    return probs.double().clamp_min(1e-38).log()
