"""What becomes of texts that are longer than a sequence may be."""

from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from lit_bert.data.collate import collate
from lit_bert.data.encoding import TextEncoder

CLS, SEP = 2, 3


@pytest.fixture
def tokenizer(tiny_bert: str) -> Any:
    return AutoTokenizer.from_pretrained(tiny_bert)


LONG = "a warm and funny film great fun lovely no fun awful"


def test_heads_are_what_transformers_truncates_to(tokenizer: Any) -> None:
    for length in (3, 5, 8, 40):
        expected = tokenizer([LONG, "lovely"], truncation=True, max_length=length).input_ids
        assert TextEncoder(tokenizer, length)([LONG, "lovely"])["input_ids"] == expected


def test_head_and_tail(tokenizer: Any) -> None:
    ids = tokenizer(LONG).input_ids
    encode = TextEncoder(tokenizer, 6, "head_tail")
    assert encode([LONG])["input_ids"] == [[*ids[:2], *ids[-4:]]]
    assert encode.counts()["cut_rows"] == 1
    assert encode.counts()["cut_tokens"] == (len(ids) - 6) / len(ids)


def test_pairs(tokenizer: Any) -> None:
    first, second = ["a warm film", LONG], ["great fun", "lovely"]
    expected = tokenizer(first, second, truncation=True, max_length=8)
    encoded = TextEncoder(tokenizer, 8)(first, second)
    assert encoded == {"input_ids": expected.input_ids, "token_type_ids": expected.token_type_ids}
    rows = [
        {"input_ids": ids, "token_type_ids": types, "label": 0, "index": number}
        for number, (ids, types) in enumerate(zip(*encoded.values(), strict=True))
    ]
    batch = collate(rows, tokenizer.pad_token_id)
    padded = tokenizer.pad(dict(expected), return_tensors="pt")
    assert torch.equal(batch["token_type_ids"], padded["token_type_ids"])
    assert torch.equal(batch["input_ids"], padded["input_ids"])


def test_unknown_words_are_counted(tokenizer: Any) -> None:
    encode = TextEncoder(tokenizer, 8)
    encode(["a \u732b film"])
    assert encode.counts()["unknown_tokens"] == 1 / 5
