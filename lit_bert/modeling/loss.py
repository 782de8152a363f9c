"""Which rows of a batch, B of them, and which of C classes count in the loss, and how much."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_bert.errors import UserError

ClassWeights = list[float] | Literal["balanced"] | None


def check_losses(losses: Tensor, labels: Tensor) -> Tensor:
    """Return losses, or raise a UserError if their shape is not that of the labels, (B,)."""
    if losses.shape != labels.shape:
        raise UserError(
            f"compute_loss returned a tensor of shape {tuple(losses.shape)} for {len(labels)} rows; return the loss of "
            'each row, as cross_entropy does with reduction="none"'
        )
    return losses


class LossWeights(nn.Module):
    """The weight of each class as `values`, shape (C,), or None if all classes weigh the same.

    "balanced" weights are rows / (C x rows of the class), as scikit-learn has them; they are 1 until a data module
    tells its rows.
    """

    def __init__(self, given: ClassWeights, num_labels: int) -> None:
        super().__init__()
        self.balanced = given == "balanced"
        self.register_buffer("values", None if given is None else torch.ones(num_labels), persistent=False)
        if isinstance(given, list):
            if len(given) != num_labels or min(given) < 0 or not sum(given) > 0:
                raise UserError(
                    f"--model.class_weights {given}: give a number for each of {num_labels} classes, at least 0"
                )
            self.values = torch.tensor(given)

    def update(self, data: Any, training: bool) -> None:
        """Balance the weights by the training rows of a data module, which `training` cannot do without."""
        splits = getattr(data, "splits", {})
        if self.balanced and "train" in splits:
            labels = splits["train"]["label"][:]  # without the slice, a column is read row by row
            counts = torch.bincount(torch.tensor(labels), minlength=len(self.values))
            self.values.copy_(counts.sum() / (len(counts) * counts.clamp_min(1)))
        elif self.balanced and training:
            raise UserError("--model.class_weights balanced: this data module does not tell its rows; give a list")
