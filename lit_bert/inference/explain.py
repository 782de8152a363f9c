"""Why an answer came out: how much each word of a text adds to the probability of the predicted class.

Integrated gradients (Sundararajan et al. 2017, "Axiomatic attribution for deep networks") on the word embeddings, by
captum. The text is compared to one of as many tokens that are all [MASK], which a masked language model has learned to
read as "a word stands here"; special tokens stay as they are. Where a tokenizer has no [MASK], it is the padding token.

Legend: N steps, T tokens, H hidden, C classes.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_bert.data.encoding import TextEncoder
from lit_bert.errors import UserError
from lit_bert.modeling.forward import logits_of

STEPS = (50, 200)
"""Points between the masked text and the text at which gradients are taken: the more if the fewer are too coarse."""

TOLERANCE = 0.01
"""Convergence error, in probability, from which on they are too coarse."""

STEP_TOKENS = 2048
"""Tokens of the points that go through the model together, at most, unless a single one has more."""


class WordScore(NamedTuple):
    """A word as it stands in the text, and what it adds to the probability of the predicted class, in [-1, 1]."""

    text: str
    score: float


class Explanation(NamedTuple):
    """Why a text is given its label.

    `label` and `score` are those of its `Prediction`. `words` are in the order of the text, words of the second text of
    a pair after those of the first; what was cut from a long text is not among them. Their scores sum up to the
    difference of the probability from that of a text of [MASK] tokens, plus `error`, what the integration is off by.
    """

    label: str
    score: float
    words: list[WordScore]
    error: float


def explain(model: Any, encode: TextEncoder, text: str | tuple[str, str], target: int) -> tuple[list[WordScore], float]:
    """Return the scores of a text's words, for the probability of its target class, and their convergence error.

    It computes in float32, for half precision is too coarse for the error to say anything; the model, a classifier of
    transformers, is in evaluation mode.

    Raises:
        UserError: captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as missing:
        raise UserError("explain: install what it needs with pip install '.[explain]' -c constraints.txt") from missing
    texts = (text,) if isinstance(text, str) else text
    tokenizer, embed = encode.tokenizer, model.get_input_embeddings()
    device = embed.weight.device
    types = {name: torch.tensor(rows, device=device) for name, rows in encode(*([part] for part in texts)).items()}
    ids = types.pop("input_ids")
    cut = {"truncation": True, "max_length": encode.max_length} if len(texts) > 1 else {}
    encoded = tokenizer(*texts, verbose=False, **cut)
    places = list(zip(encoded.sequence_ids(), encoded.word_ids(), strict=True))  # which text, which word of it
    if len(places) > encode.max_length:
        places = encode.shorten(places)
    is_special = torch.tensor([word is None for _, word in places], device=device)
    mask_token_id = tokenizer.pad_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id

    def probs_of(embeddings: Tensor) -> Tensor:
        """Return probabilities, shape (N, C), of embeddings, shape (N, T, H)."""
        more = {name: value.repeat(len(embeddings), 1) for name, value in types.items()}
        return logits_of(model, {"inputs_embeds": embeddings, **more}).softmax(dim=-1)

    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        ids = ids.clone()  # one that was made in inference mode would have no gradient
        for steps in STEPS:
            attributions, error = IntegratedGradients(probs_of).attribute(
                embed(ids).detach(),
                embed(torch.where(is_special, ids, mask_token_id)).detach(),
                target,
                n_steps=steps,
                internal_batch_size=max(1, STEP_TOKENS // ids.numel()),
                return_convergence_delta=True,
            )
            if abs(float(error)) <= TOLERANCE:
                break
    totals: dict[tuple[int, int], float] = {}
    for place, score in zip(places, attributions.sum(dim=-1)[0].tolist(), strict=True):
        if place[1] is not None:
            totals[place] = totals.get(place, 0.0) + score
    spans = {(part, word): encoded.word_to_chars(word, sequence_index=part) for part, word in totals}
    words = [texts[part][spans[part, word].start : spans[part, word].end].strip() for part, word in totals]
    return list(map(WordScore, words, totals.values())), float(error)
