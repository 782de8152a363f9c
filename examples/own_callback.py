"""Print the sentence with the highest loss after each validation: a callback and a plain Lightning Trainer.

python examples/own_callback.py
python examples/own_callback.py --dataset my_folder --pretrained google-bert/bert-base-cased
"""

from jsonargparse import auto_cli
from lightning.pytorch import LightningModule, Trainer, seed_everything

from lit_bert import BertClassifier, TextClassificationDataModule
from lit_bert.callbacks.row_recorder import RowRecorder


class PrintHardest(RowRecorder):
    """Prints the validation sentence with the highest loss, its label and its prediction."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the rows of this validation, which `RowRecorder` has joined from all batches and ranks."""
        rows = self.rows["val"]
        hardest = int(rows["loss"].argmax())
        [text], _ = trainer.datamodule.texts("val", rows["index"][hardest : hardest + 1])
        label, pred = (pl_module.class_names[int(rows[key][hardest])] for key in ("labels", "preds"))
        print(f"epoch {trainer.current_epoch}: label {label}, prediction {pred}: {text}")


def main(dataset: str = "packaged", pretrained: str = "packaged", train_rows: int | None = None) -> None:
    """Train for two epochs on a Hub id, a folder of CSV files, or the packaged reviews."""
    seed_everything(1)
    data = TextClassificationDataModule(dataset, pretrained, train_rows=train_rows)
    model = BertClassifier(pretrained, class_names=data.class_names, learning_rate=1e-4)
    trainer = Trainer(max_epochs=2, gradient_clip_val=1.0, num_sanity_val_steps=0, callbacks=[PrintHardest()])
    trainer.fit(model, data)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
