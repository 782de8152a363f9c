"""Slices of a split: kinds of sentences on which a sentiment classifier may do better or worse than on others."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]

_WORDS = {
    "negation": "not|no|nor|never|nothing|nobody|none|neither|without|hardly|barely|cannot|\\w+n['\u2019]t",
    "contrast": "but|however|although|though|yet|despite|while|whereas|nevertheless|unfortunately",
}


def slices(texts: Sequence[str], lengths: Sequence[int]) -> dict[str, Mask]:
    """Return which rows are in each slice, shape (rows,), by the slice's title; empty slices are left out.

    Sentences are divided at the quartiles of their length, so that each quarter has about as many; and by whether they
    have an English word of negation ("n't" included) or contrast. `lengths` are tokens of each sentence.
    """
    tokens = np.asarray(lengths)
    edges = np.unique(np.quantile(tokens, [0, 0.25, 0.5, 0.75, 1], method="inverted_cdf"))
    masks = {}
    for number, (low, high) in enumerate(pairwise(edges.tolist())):
        first = low + (number > 0)
        masks[f"{first} to {high} tokens"] = (tokens >= first) & (tokens <= high)
    column = pa.array(texts, pa.string())
    for title, words in _WORDS.items():
        matches = pc.match_substring_regex(column, rf"\b(?:{words})\b", ignore_case=True)
        masks[title] = matches.to_numpy(zero_copy_only=False)
        masks[f"no {title}"] = ~masks[title]
    return {title: mask for title, mask in masks.items() if mask.any()}
