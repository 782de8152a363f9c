"""For any bytes, readers give rows or one `UserError`: never another exception.

`LIT_BERT_FUZZ=2500 pytest tests/test_fuzz.py` tries so many examples in each test.
"""

import contextlib
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Patch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_bert.data import dataset
from lit_bert.data.readers import read_texts
from lit_bert.errors import UserError
from lit_bert.inference.predictions import read_predictions
from lit_bert.modeling.checkpoint import Checkpoint

fuzz = settings(
    max_examples=int(os.environ.get("LIT_BERT_FUZZ", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=2)
)
objects = st.dictionaries(st.sampled_from(["text", "label", "index", "pred", "prob_a", "x"]), values)


@st.composite
def mutated(draw: Any, content: bytes) -> bytes:
    """Change, drop, repeat or insert a few runs of bytes."""
    data = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 40))
        data[start : start + length] = draw(st.binary(max_size=40))
    return bytes(data)


CSV = b'index,text,label,pred,prob_neg,prob_pos\n0,a fine film,pos,pos,0.1,0.9\n1,"a, bad",neg,neg,0.8,0.2\n'
JSONL = b"\n".join(json.dumps({"index": n, "text": "fine", "label": "pos", "pred": "pos"}).encode() for n in range(3))
lines = st.lists(st.one_of(objects, values).map(lambda row: json.dumps(row).encode()), max_size=5).map(b"\n".join)


@cache
def parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b", "c"], "label": ["x", "y", "x"]}), buffer)
    return buffer.getvalue()


@cache
def checkpoint() -> bytes:
    buffer = io.BytesIO()
    content = {"state_dict": {"model.w": torch.ones(9)}, "epoch": 1, "global_step": 2, "callbacks": {}}
    torch.save({**content, "hyper_parameters": {"encoder_config": {"model_type": "bert"}}}, buffer)
    return buffer.getvalue()


FILES = {
    "csv": st.one_of(st.binary(max_size=200), mutated(CSV), st.text(max_size=100).map(lambda text: text.encode())),
    "jsonl": st.one_of(st.binary(max_size=200), mutated(JSONL), lines),
    "json": st.one_of(mutated(JSONL), lines, st.lists(objects).map(lambda rows: json.dumps(rows).encode())),
    "parquet": st.one_of(st.binary(max_size=100), mutated(parquet())),
    "txt": st.binary(max_size=200),
}


READERS: dict[str, tuple[list[str], Callable[[Path], object]]] = {
    "texts to predict": (list(FILES), lambda path: [row.text.encode() for row in read_texts(str(path))]),
    "training files": (
        ["csv", "jsonl", "json", "parquet"],
        lambda path: dataset.load(dataset.fetch(dict.fromkeys(dataset.SPLITS, str(path)))[0]),
    ),
    "prediction files": (["csv", "jsonl"], read_predictions),
}


@pytest.mark.parametrize(("reader", "suffix"), [(name, kind) for name, (kinds, _) in READERS.items() for kind in kinds])
def test_files(reader: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"

    @fuzz
    @given(FILES[suffix])
    def check(content: bytes) -> None:
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            READERS[reader][1](path)

    check()


plain = st.recursive(
    st.one_of(values, st.just(torch.ones(2))),
    lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
parts = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("state_dict", "hyper_parameters", "epoch", "global_step", "tokenizer_files", "val_outputs", "callbacks"), plain
    ),
)


@fuzz
@given(st.one_of(st.binary(max_size=200), mutated(checkpoint()), parts))
def test_checkpoints(content: Any) -> None:
    path = Path("a.ckpt")
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with contextlib.suppress(UserError):
        Checkpoint.read(path)


def test_an_archive_that_grows_when_it_is_unpacked_is_refused_at_once() -> None:
    with zipfile.ZipFile("bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(50_000_000))
    with pytest.raises(UserError, match="packed anew"):
        Checkpoint.read("bomb.ckpt")


def test_closed_standard_input(monkeypatch: Patch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="standard input"):
        list(read_texts("-"))
