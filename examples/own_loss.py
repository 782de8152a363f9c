"""Train with a loss of your own, here cross-entropy with label smoothing, and keep the whole command line.

python examples/own_loss.py
python examples/own_loss.py fit --config configs/packaged.yaml --model.smoothing 0.2
python examples/own_loss.py test --ckpt_path runs/RUN/checkpoints/last.ckpt
"""

import sys
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from lit_bert import BertClassifier
from lit_bert.cli import main

RECIPE = Path(__file__).parents[1] / "configs" / "packaged.yaml"


class SmoothedBertClassifier(BertClassifier):
    """BERT with label smoothing (Szegedy et al. 2016, "Rethinking the Inception architecture", section 7).

    Args:
        smoothing: Share of each label that is spread evenly over all classes, in [0, 1].
        **kwargs: Arguments of `BertClassifier`.
    """

    def __init__(self, smoothing: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.smoothing = smoothing

    def compute_loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(logits, batch["labels"], label_smoothing=self.smoothing, reduction="none")


if __name__ == "__main__":
    main(sys.argv[1:] or ["fit", "--config", str(RECIPE)], model_class=SmoothedBertClassifier)
