"""What becomes of texts that are longer than a sequence may be."""

from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from lit_bert.data.collate import collate
from lit_bert.data.encoding import TextEncoder
from lit_bert.modeling.forward import mean_over_windows

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


def test_windows_hold_every_token_and_the_last_is_full(tokenizer: Any) -> None:
    ids = tokenizer(LONG).input_ids
    encode = TextEncoder(tokenizer, 6, "windows")
    [row] = encode([LONG])["input_ids"]
    windows = [row[start : start + 6] for start in range(0, len(row), 6)]
    assert all(len(window) == 6 and (window[0], window[-1]) == (ids[0], ids[-1]) for window in windows)
    assert windows[0][1:-1] == ids[1:5]
    assert windows[1][1:-1] == ids[4:8]  # a quarter of the window before
    assert windows[-1][1:-1] == ids[-5:-1]
    assert encode.counts()["cut_rows"] == 0
    assert encode(["lovely"])["input_ids"] == tokenizer(["lovely"]).input_ids


def test_pairs(tokenizer: Any) -> None:
    first, second = ["a warm film", LONG], ["great fun", "lovely"]
    expected = tokenizer(first, second, truncation=True, max_length=8)
    encoded = TextEncoder(tokenizer, 8)(first, second)
    assert encoded == {"input_ids": expected.input_ids, "token_type_ids": expected.token_type_ids}
    rows = [
        {"input_ids": ids, "token_type_ids": types, "label": 0, "index": number}
        for number, (ids, types) in enumerate(zip(*encoded.values(), strict=True))
    ]
    batch = collate(rows, tokenizer.pad_token_id, max_length=8)
    padded = tokenizer.pad(dict(expected), return_tensors="pt")
    assert torch.equal(batch["token_type_ids"], padded["token_type_ids"])
    assert torch.equal(batch["input_ids"], padded["input_ids"])


def test_unknown_words_are_counted(tokenizer: Any) -> None:
    encode = TextEncoder(tokenizer, 8)
    encode(["a \u732b film"])
    assert encode.counts()["unknown_tokens"] == 1 / 5


def test_windows_become_sequences_and_their_mean_is_taken() -> None:
    rows = [{"input_ids": ids, "label": 0, "index": n} for n, ids in enumerate([[1, 2, 3, 4, 5, 6], [7, 8]])]
    batch = collate(rows, pad_token_id=0, max_length=3)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 0]]
    assert batch["windows"].tolist() == [2, 1]
    assert batch["index"].tolist() == [0, 1]
    logits = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]], requires_grad=True)
    mean = mean_over_windows(logits, batch["windows"])
    assert mean.tolist() == [[2.0, 1.0], [5.0, 5.0]]
    mean[0, 0].backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.5, 0.0], [0.5, 0.0], [0.0, 0.0]]
    assert "windows" not in collate(rows[1:], pad_token_id=0, max_length=3)
