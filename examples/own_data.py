"""Train on rows that are in no file, here those of an SQLite database, and keep the whole command line.

python examples/own_data.py
python examples/own_data.py fit --data.dataset my.db --data.query "SELECT body AS text, stars AS label FROM reviews"
"""

import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from typing import Any

import pandas as pd

from lit_bert import TextClassificationDataModule
from lit_bert.cli import main
from lit_bert.data.dataset import fetch, load


class DatabaseDataModule(TextClassificationDataModule):
    """Rows of the database `dataset` that `query` selects, as `text` and `label`; some are held out to evaluate on."""

    def __init__(self, dataset: str = "reviews.db", query: str = "SELECT text, label FROM reviews", **kwargs: Any):
        super().__init__(dataset, **kwargs)
        self.query, self.table = query, f"{dataset}.jsonl"

    def prepare_data(self) -> None:
        """Write the rows as a table, which is checked, split and cached as any other."""
        if not self.fingerprint:  # it has not been done in this process
            with closing(sqlite3.connect(self.dataset)) as database:
                pd.read_sql(self.query, database).to_json(self.table, orient="records", lines=True)
            self.options = replace(self.options, dataset=self.table)
        super().prepare_data()


if __name__ == "__main__":
    if not sys.argv[1:]:  # a database to try it with
        with closing(sqlite3.connect("reviews.db")) as reviews:
            load(fetch("packaged")[0])["train"].to_sql("reviews", reviews, if_exists="replace")
    main(sys.argv[1:] or ["fit", "--data.dataset=reviews.db"], datamodule_class=DatabaseDataModule)
