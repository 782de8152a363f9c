"""Fine-tune BERT for sentence classification with PyTorch Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lit_bert.datamodule import RottenTomatoesDataModule
    from lit_bert.module import BertClassifier
    from lit_bert.predictor import Predictor

__all__ = ["BertClassifier", "Predictor", "RottenTomatoesDataModule"]


def __getattr__(name: str) -> object:
    """Import a public class when it is first asked for: `import lit_bert` alone costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'lit_bert' has no attribute {name!r}")
    homes = {"BertClassifier": "module", "Predictor": "predictor", "RottenTomatoesDataModule": "datamodule"}
    return getattr(import_module(f"lit_bert.{homes[name]}"), name)
