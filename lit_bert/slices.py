"""Kinds of sentences on which a classifier of sentiment may do better or worse than on others."""

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
    """Return, by the title of each slice, which rows are in it, shape (rows,).

    Sentences are cut at the quartiles of their length, so that each quarter has about as many; empty slices are left
    out. Negation and contrast are told by English words, of which "n't" is a part.

    Args:
        texts: The sentences.
        lengths: Tokens of each.
    """
    tokens = np.asarray(lengths)
    edges = np.unique(np.quantile(tokens, [0, 0.25, 0.5, 0.75, 1], method="inverted_cdf"))
    found = {}
    for number, (low, high) in enumerate(pairwise(edges.tolist())):
        first = low + (number > 0)
        found[f"{first} to {high} tokens"] = (tokens >= first) & (tokens <= high)
    column = pa.array(texts, pa.string())
    for title, words in _WORDS.items():
        has = pc.match_substring_regex(column, rf"\b(?:{words})\b", ignore_case=True).to_numpy(zero_copy_only=False)
        found |= {title: has, f"no {title}": ~has}
    return {title: mask for title, mask in found.items() if mask.any()}
