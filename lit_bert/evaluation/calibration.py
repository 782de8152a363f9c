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


def cross_validate(probs: Tensor, labels: Tensor) -> tuple[float, bool]:
    """Return the calibration error of rows at the temperature of their other half, and whether scaling is worth it.

    It is if that lowers the error, and the loss of both halves, which has less noise; and if both are an optimum.
    """
    half = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)) % 2 == 0
    scaled, helps = probs.clone(), len(labels) > 1
    for held in (half, ~half) if helps else ():
        temperature = fit_temperature(probs[~held], labels[~held])
        scaled[held] = apply_temperature(probs[held], temperature)
        after, before = (torch.nn.functional.nll_loss(_logits(rows[held]), labels[held]) for rows in (scaled, probs))
        helps &= bool(after < before) and abs(math.log(temperature)) < 0.99 * math.log(MAX_TEMPERATURE)
    error = expected_calibration_error(scaled, labels)
    return error, helps and error < expected_calibration_error(probs, labels)


def _logits(probs: Tensor) -> Tensor:
    """Return logits that give these probabilities; all others that do differ by one number per row."""
    return probs.double().clamp_min(1e-38).log()


def calibration_metrics(val: SplitOutputs, test: SplitOutputs) -> dict[str, float]:
    """Return the `temperature` that fits validation rows, and the calibration error without and with it.

    `val_ece_calibrated` and `helps` are what `cross_validate` says of the validation rows.
    """
    temperature = fit_temperature(val["probs"], val["labels"])
    val_ece_calibrated, helps = cross_validate(val["probs"], val["labels"])
    calibrated = apply_temperature(test["probs"], temperature)
    return {
        "temperature": temperature,
        "val_ece": expected_calibration_error(val["probs"], val["labels"]),
        "val_ece_calibrated": val_ece_calibrated,
        "helps": helps,
        "test_ece": expected_calibration_error(test["probs"], test["labels"]),
        "test_ece_calibrated": expected_calibration_error(calibrated, test["labels"]),
    }
