"""Accuracy on long texts whose label stands at their end: what --data.long_text reads of them.

    python benchmarks/long_texts.py

makes 1,200 texts, each of 11 sentences drawn from the training rows of Rotten Tomatoes and one more, whose label is the
text's, and trains the packaged recipe on them with `max_length` 64, in both ways.
"""

import csv
import random
import tempfile
from pathlib import Path

from lit_bert.cli import main
from lit_bert.data import dataset
from lit_bert.data.formats import DEFAULT_FORMAT
from lit_bert.data.packaged import PACKAGED

TEXTS, SENTENCES, MAX_LENGTH = 1200, 12, 64


def make_texts(file: Path) -> None:
    """Write the texts as a CSV file."""
    location, _ = dataset.fetch(PACKAGED)
    rows = dataset.load(location, DEFAULT_FORMAT, None, False)["train"].shuffle(seed=123)
    texts, names, draw = rows["text"], rows.features["label"].names, random.Random(0)
    with file.open("w", encoding="utf-8", newline="") as output:
        writer = csv.writer(output)
        writer.writerow(["text", "label"])
        for text, label in zip(texts[:TEXTS], rows["label"][:TEXTS], strict=True):
            others = draw.choices(texts[TEXTS:], k=SENTENCES - 1)
            writer.writerow([" ".join([*others, text]), names[label]])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "long.csv"
        make_texts(file)
        found = {}
        for long_text in ("head", "head_tail"):
            words = ["--config", "configs/own_data_packaged.yaml", f"--data.dataset={file}", "--trainer.max_epochs=3"]
            words += [f"--data.max_length={MAX_LENGTH}", f"--data.long_text={long_text}", "--data.holdout=0.25"]
            words += [f"--trainer.default_root_dir={folder}/runs", "--trainer.enable_progress_bar=false"]
            found[long_text] = main(["fit", *words]).results["test"]
    for long_text, metrics in found.items():
        accuracy = f"{metrics['acc']:.4f}, 95 % interval {metrics['acc_low']:.4f} to {metrics['acc_high']:.4f}"
        print(f"{long_text:9} {metrics['rows']} test rows, accuracy {accuracy}")
