"""Why an answer came out: how much each word of a text adds to the probability of the predicted class.

Integrated gradients (Sundararajan et al. 2017, "Axiomatic attribution for deep networks") on the word embeddings, by
captum. The text is compared to one of as many tokens that are all [MASK], which a masked language model has learned to
read as "a word stands here"; special tokens stay as they are. Where a tokenizer has no [MASK], it is the padding token.

Legend: N steps, T tokens, H hidden, C classes.
"""

from collections.abc import Iterator, Sequence
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


class _Tokens(NamedTuple):
    """Inputs of one text, shape (1, T), the number of each token's word (None: a special token), and the words."""

    inputs: dict[str, Tensor]
    owners: list[int | None]
    words: list[str]


def explain(
    model: Any, encode: TextEncoder, texts: Sequence[str | tuple[str, str]], targets: Sequence[int]
) -> Iterator[tuple[list[WordScore], float]]:
    """Yield the scores of each text's words, for the probability of its target class, and their convergence error.

    It computes in float32, for half precision is too coarse for the error to say anything.

    Args:
        model: A classifier of transformers, in evaluation mode.
        encode: Makes the tokens that the model predicts from.
        texts: Texts, or pairs of two.
        targets: The class of each that is explained.

    Raises:
        UserError: captum is not installed, or the model cannot start from embeddings.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as missing:
        raise UserError("explain: install what it needs with pip install '.[explain]' -c constraints.txt") from missing
    embed = model.get_input_embeddings()
    tokenizer, device = encode.tokenizer, embed.weight.device
    mask_token_id = tokenizer.pad_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id
    for text, target in zip(texts, targets, strict=True):
        tokens = _tokenise(encode, text)
        ids = tokens.inputs["input_ids"].to(device)
        types = {name: value.to(device) for name, value in tokens.inputs.items() if name != "input_ids"}
        is_special = torch.tensor([owner is None for owner in tokens.owners], device=device)

        def probs_of(embeddings: Tensor, types: dict[str, Tensor] = types) -> Tensor:
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
        yield _sum_by_word(tokens, attributions.sum(dim=-1)[0].tolist()), float(error)


def _sum_by_word(tokens: _Tokens, scores: Sequence[float]) -> list[WordScore]:
    """Return what the pieces of each word add together; words of which no piece was kept are left out."""
    totals: dict[int, float] = {}
    for owner, score in zip(tokens.owners, scores, strict=True):
        if owner is not None:
            totals[owner] = totals.get(owner, 0.0) + score
    return [WordScore(tokens.words[number], total) for number, total in sorted(totals.items())]


def _tokenise(encode: TextEncoder, text: str | tuple[str, str]) -> _Tokens:
    """Return the tokens that `encode` makes of a text, with the words that the tokenizer found."""
    texts = (text,) if isinstance(text, str) else text
    columns = encode(*([part] for part in texts))
    cut = {"truncation": True, "max_length": encode.max_length} if len(texts) > 1 else {}
    encoded = encode.tokenizer(*texts, verbose=False, **cut)
    places = list(zip(encoded.sequence_ids(), encoded.word_ids(), strict=True))
    numbers = {place: number for number, place in enumerate(dict.fromkeys(p for p in places if p[1] is not None))}
    owners = [numbers.get(place) for place in places]
    if len(owners) > encode.max_length:
        owners = encode.shorten(owners)
    spans = [(sequence, encoded.word_to_chars(word, sequence_index=sequence)) for sequence, word in numbers]
    words = [texts[sequence][span.start : span.end].strip() for sequence, span in spans]
    return _Tokens({name: torch.tensor(rows) for name, rows in columns.items()}, owners, words)
