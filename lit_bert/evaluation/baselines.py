"""What a few lines without BERT reach on the same rows: so that a reader sees what BERT adds.

Legend: N rows.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

MAX_TRAIN_ROWS, MAX_FEATURES = 100_000, 200_000
"""Training rows of the linear model at most, drawn at random so that it is fitted in seconds; words and word pairs."""


def majority(labels: Sequence[int], rows: int) -> Tensor:
    """Return the most frequent class of the training labels as the prediction of each row, shape (rows,)."""
    return torch.full((rows,), int(np.bincount(labels).argmax()))


def linear(texts: Sequence[str], labels: Sequence[int], *splits: Sequence[str]) -> list[Tensor]:
    """Fit logistic regression on TF-IDF weights of words and word pairs; return its predictions (N,) of each split.

    C=10 is the best of 1, 3 and 10 on the validation rows of Rotten Tomatoes, with 1,000 training rows and with all.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len(texts) > MAX_TRAIN_ROWS:
        drawn = np.random.default_rng(0).choice(len(texts), MAX_TRAIN_ROWS, replace=False)
        texts, labels = [texts[row] for row in drawn], [labels[row] for row in drawn]
    if len(set(labels)) == 1:
        return [majority(labels, len(sentences)) for sentences in splits]
    words = {"token_pattern": r"(?u)\b\w+\b|[^\w\s]", "ngram_range": (1, 2), "max_features": MAX_FEATURES}
    tfidf = TfidfVectorizer(sublinear_tf=True, **words)
    model = make_pipeline(tfidf, LogisticRegression(C=10, max_iter=1000)).fit(texts, labels)
    return [torch.from_numpy(model.predict(sentences)).long() for sentences in splits]
