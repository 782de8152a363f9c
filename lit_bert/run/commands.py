"""What a command does once its Trainer is made."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lit_bert.run.rooms import import_if_present


def after_fit(
    trainer: Trainer,
    module: LightningModule,
    data: LightningDataModule,
    folder: Path,
    settings: Namespace,
    seconds: float,
) -> dict[str, Any]:
    """Test, report and export the best checkpoint of a training that took so many seconds; return the results."""
    finish = import_if_present("evaluation.finish")
    if settings.trainer.fast_dev_run or settings.trainer.barebones or not finish:
        return {}
    how = (settings.test_after_fit, settings.seed_everything)
    results: dict[str, Any] = finish.finish_fit(trainer, module, data, folder, seconds, *how)
    exports = settings.export_after_fit and results.get("checkpoint")
    if exports and (export := import_if_present("inference.export")):
        export.export_best(trainer, folder, results)
    return results


def evaluate(
    trainer: Trainer, module: LightningModule, data: LightningDataModule, folder: Path, settings: Namespace, split: str
) -> dict[str, Any]:
    """Evaluate on "val" or "test"; return the results."""
    finish = import_if_present("evaluation.finish")
    if not finish:
        run = trainer.test if split == "test" else trainer.validate
        return dict(run(module, datamodule=data, ckpt_path=settings.ckpt_path)[0])
    written_to = None if settings.trainer.fast_dev_run else folder
    return dict(finish.evaluate(trainer, module, data, split, settings.ckpt_path, written_to))


def predict(trainer: Trainer, module: LightningModule | None, data: Any, folder: Path, settings: Namespace) -> None:
    """Predict the rows of a split, or the texts of `--input`."""
    from lit_bert.inference.predict import predict_split, predict_texts

    if module is not None:
        predict_split(trainer, module, data, settings, folder)
    else:
        predict_texts(trainer, settings, folder)
