"""Does the data path stay flat as rows grow? Tokenise, group and iterate generated rows; memory, time per row.

Each size runs in a process of its own with an empty cache.
"""

import argparse
import json
import os
import resource
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
    options = parser.parse_args()
    if options.folder:
        print("\n" + json.dumps(measure(options.folder, options.encoder)))
        return
    print(f"{'rows':>9} {'us/row to prepare':>18} {'us/row to iterate':>18} {'s to 1st batch':>15} {'MiB more':>9}")
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            generate(Path(folder), rows)
            command = [sys.executable, __file__, "--folder", folder, "--encoder", options.encoder]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            record = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{rows:9,} {record['prepare'] / rows * 1e6:18.1f} {record['iterate'] / rows * 1e6:18.1f} "
            f"{record['first']:15.2f} {record['mib']:9.0f}",
            flush=True,
        )


def generate(folder: Path, rows: int) -> None:
    """Write rows of about 30 tokens as Parquet, a few of them for validation and test."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    words = np.array("a the film story plot cast funny dull moving slow great bad warm cold but not very with".split())  # noqa: SIM905
    for split, count in (("train", rows), ("validation", 1000), ("test", 1000)):
        lengths = np.clip(random.normal(28, 10, count).astype(int), 3, 76)
        chosen = iter(np.split(words[random.integers(0, len(words), lengths.sum())], lengths.cumsum()[:-1]))
        table = pa.table({"text": [" ".join(row) for row in chosen], "label": random.integers(0, 2, count)})
        pq.write_table(table, folder / f"{split}.parquet")


def measure(folder: Path, encoder: str) -> dict[str, float]:
    """Return seconds to prepare, to the first batch of an epoch and to iterate it, and the memory that took, in MiB."""
    from lit_bert import RottenTomatoesDataModule, sources
    from lit_bert.cli import silence_chatter

    silence_chatter()
    path = str(sources.fetch_encoder(encoder))
    os.environ["LIT_BERT_CACHE"] = str(folder / "cache")
    data = RottenTomatoesDataModule(str(folder), path, batch_size=BATCH)
    import datasets  # noqa: F401
    import transformers  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    data.prepare_data()
    data.setup("fit")
    prepared = time.perf_counter()
    first = 0.0
    for batch in data.train_dataloader():
        first = first or time.perf_counter() - prepared
        assert len(batch["labels"]) <= BATCH
    ended = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"prepare": prepared - begun, "first": first, "iterate": ended - prepared, "mib": (peak - before) / 1024}


if __name__ == "__main__":
    main()
