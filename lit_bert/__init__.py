"""Fine-tune BERT for sentiment and other sentence classification with PyTorch Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lit_bert.datamodule import TextClassificationDataModule
    from lit_bert.datamodule import TextClassificationDataModule as RottenTomatoesDataModule
    from lit_bert.inference.predictor import Predictor
    from lit_bert.module import BertClassifier

__all__ = ["BertClassifier", "Predictor", "RottenTomatoesDataModule", "TextClassificationDataModule"]

_MODULES = {
    "BertClassifier": ("module", "BertClassifier"),
    "Predictor": ("inference.predictor", "Predictor"),
    "RottenTomatoesDataModule": ("datamodule", "TextClassificationDataModule"),  # its name until 0.1
    "TextClassificationDataModule": ("datamodule", "TextClassificationDataModule"),
}


def __getattr__(name: str) -> object:
    """Import a public class when it is first asked for: `import lit_bert` alone costs nothing."""
    if name not in _MODULES:
        raise AttributeError(f"module 'lit_bert' has no attribute {name!r}")
    module, attribute = _MODULES[name]
    return getattr(import_module(f"lit_bert.{module}"), attribute)
