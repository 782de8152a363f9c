"""Does the data path stay flat as rows grow? Tokenise, group, iterate and predict generated rows; memory, time per row.

Each size runs in processes of its own with an empty cache. What predicts is a BERT of two layers of 32 numbers, so that
reading, tokenising and writing are what is measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BATCH = 32


def main() -> None:
    """Run each size and print a row for it, or run one size and print its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="training rows (each size)")
    parser.add_argument("--encoder", default="packaged", help="whose tokenizer: packaged, a folder, or a Hub model id")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--predict", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        task = predict if options.predict else measure
        print("\n" + json.dumps(task(options.folder, options.encoder)))
        return
    titles = (
        "us/row to prepare",
        "us/row to iterate",
        "s to 1st batch",
        "MiB more",
        "of it mapped",
        "us/row to predict",
        "MiB more",
    )
    print(f"{'rows':>9} " + " ".join(titles))
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            generate(Path(folder), rows)
            record = {}
            for more in ([], ["--predict"]):
                command = [sys.executable, __file__, "--folder", folder, "--encoder", options.encoder, *more]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(done.stderr)
                record |= json.loads(done.stdout.splitlines()[-1])
        each = {name: record[name] / rows * 1e6 for name in ("prepare", "iterate", "predict")}
        values = (
            each["prepare"],
            each["iterate"],
            record["first"],
            record["mib"],
            record["mapped"],
            each["predict"],
            record["predict_mib"],
        )
        cells = (f"{value:{len(title)}.1f}" for title, value in zip(titles, values, strict=True))
        print(f"{rows:9,} " + " ".join(cells), flush=True)


def generate(folder: Path, rows: int) -> None:
    """Write rows of about 30 tokens as one Parquet file, of which validation and test rows are held out."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    words = np.array("a the film story plot cast funny dull moving slow great bad warm cold but not very with".split())  # noqa: SIM905
    lengths = np.clip(random.normal(28, 10, rows).astype(int), 3, 76)
    chosen = iter(np.split(words[random.integers(0, len(words), lengths.sum())], lengths.cumsum()[:-1]))
    table = pa.table({"text": [" ".join(row) for row in chosen], "label": random.integers(0, 2, rows)})
    pq.write_table(table, folder / "rows.parquet")
    (folder / "rows.txt").write_text("\n".join(table["text"].to_pylist()) + "\n")


def measure(folder: Path, encoder: str) -> dict[str, float]:
    """Return seconds to prepare, to the first batch of an epoch and to iterate it, and the memory that took, in MiB."""
    from lit_bert import TextClassificationDataModule
    from lit_bert.console import silence_chatter
    from lit_bert.modeling.encoder import find_encoder

    silence_chatter()
    path = str(find_encoder(encoder))
    os.environ["LIT_BERT_CACHE"] = str(folder / "cache")
    data = TextClassificationDataModule(str(folder / "rows.parquet"), path, batch_size=BATCH)
    import datasets  # noqa: F401
    import transformers  # noqa: F401

    before, mapped = _memory(), _memory("RssFile")
    begun = time.perf_counter()
    data.prepare_data()
    data.setup("fit")
    prepared = time.perf_counter()
    first = 0.0
    for batch in data.train_dataloader():
        first = first or time.perf_counter() - prepared
        assert len(batch["labels"]) <= BATCH
    ended = time.perf_counter()
    files = {"mapped": _memory("RssFile") - mapped}
    return {
        "prepare": prepared - begun,
        "first": first,
        "iterate": ended - prepared,
        "mib": _memory() - before,
        **files,
    }


def predict(folder: Path, encoder: str) -> dict[str, float]:
    """Return seconds to predict the training file as `predict --input` does, and the memory that took, in MiB."""
    import torch
    from lightning.pytorch import Trainer
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from lit_bert import Predictor
    from lit_bert.inference.texts import TextPredictor
    from lit_bert.modeling.encoder import find_encoder

    tokenizer = AutoTokenizer.from_pretrained(find_encoder(encoder))
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), **size)
    for part in (tokenizer, BertForSequenceClassification(config)):
        part.save_pretrained(folder / "model")
    predictor = Predictor(folder / "model")
    predictor(["warm"])
    before = _memory()
    begun = time.perf_counter()
    module = TextPredictor(predictor, str(folder / "rows.txt"), str(folder / "predictions.csv"))
    options = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    Trainer(**options, accelerator="cpu").predict(module, dataloaders=range(1), return_predictions=False)
    seconds = time.perf_counter() - begun
    return {"predict": seconds, "predict_mib": _memory() - before}


def _memory(kind: str = "VmHWM") -> float:
    """Return this process's peak memory in MiB, or with "RssFile" how much of it now is pages of mapped files.

    `resource` is no help: on Linux its peak may be that of the process that started this one.
    """
    [kib] = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if kind in line)
    return int(kib) / 1024


if __name__ == "__main__":
    main()
