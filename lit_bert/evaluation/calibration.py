"""Whether probabilities can be believed, and temperature scaling, which makes them more believable.

Legend: N rows, C classes; `probs` have shape (N, C), `labels` are class numbers of shape (N,).
"""

import math

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from lit_bert.modeling.metrics import ECE_BINS
from lit_bert.modeling.outputs import SplitOutputs


def expected_calibration_error(probs: Tensor, labels: Tensor) -> float:
    """Return how far confidence and accuracy are apart, averaged over bins of confidence, in [0, 1].

    Source: Guo et al. 2017, "On calibration of modern neural networks" (ICML), equation 3.
    """
    return float(multiclass_calibration_error(probs, labels, probs.shape[1], n_bins=ECE_BINS, validate_args=False))


def fit_temperature(probs: Tensor, labels: Tensor) -> float:
    """Return the temperature at which these rows are most likely; above 1 it makes predictions less confident.

    It lies between 1/20 and 20: for rows that are all predicted right, the most likely one would be 0.

    Source: Guo et al. 2017, section 4.2 (temperature scaling).
    """
    from scipy.optimize import minimize_scalar

    logits, limit = _logits(probs), math.log(20)

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / math.exp(log_temperature), labels))

    return math.exp(minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x)


def apply_temperature(probs: Tensor, temperature: float) -> Tensor:
    """Return the probabilities that logits divided by `temperature` give, shape (N, C)."""
    return (_logits(probs) / temperature).softmax(dim=-1).to(probs.dtype)


def _logits(probs: Tensor) -> Tensor:
    """Return logits that give these probabilities; all others that do differ by one number per row."""
    return probs.double().clamp_min(1e-38).log()


def calibration_metrics(val: SplitOutputs, test: SplitOutputs) -> dict[str, float]:
    """Return the `temperature` that fits validation rows, and test rows' calibration error without and with it."""
    temperature = fit_temperature(val["probs"], val["labels"])
    calibrated = apply_temperature(test["probs"], temperature)
    return {
        "temperature": temperature,
        "test_ece": expected_calibration_error(test["probs"], test["labels"]),
        "test_ece_calibrated": expected_calibration_error(calibrated, test["labels"]),
    }
