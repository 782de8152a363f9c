"""Texts as token ids, and what becomes of those that are longer than the encoder, or `max_length`, allows."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from lit_bert.errors import UserError, reason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_Item = TypeVar("_Item")

LongText = Literal["head", "head_tail"]

HEAD_SHARE = 0.25
"""Of the tokens that "head_tail" keeps, those of the beginning (Sun et al. 2019, "How to fine-tune BERT for text
classification", section 5.3: 128 of 510)."""


class TextEncoder:
    """Turns texts, or pairs of them, into rows of at most `max_length` token ids, special tokens included.

    Pairs keep their heads, whatever `long_text` is. The tokenizer neither truncates nor pads on its own.

    Raises:
        UserError: `long_text` is none that there is.
    """

    def __init__(self, tokenizer: Any, max_length: int, long_text: LongText = "head") -> None:
        if long_text not in get_args(LongText):
            raise UserError(f"--data.long_text {long_text}: it must be head or head_tail; train with one of these")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.long_text = long_text
        mask = tokenizer("a", return_special_tokens_mask=True).special_tokens_mask
        self.before, self.after = mask.index(0), mask[::-1].index(0)  # special tokens around a text
        self.rows = self.tokens = self.cut_rows = self.cut_tokens = self.unknown_tokens = 0

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, list[list[int]]]:
        """Return `input_ids` of each text, and `token_type_ids` of pairs, if the encoder takes them."""
        encoded = self.tokenizer(list(texts), pairs and list(pairs), verbose=False)
        columns = ["input_ids", "token_type_ids"] if pairs and "token_type_ids" in encoded else ["input_ids"]
        rows = {column: encoded[column] for column in columns}
        unknown = self.tokenizer.unk_token_id
        for number, ids in enumerate(rows["input_ids"]):
            self.rows, self.tokens = self.rows + 1, self.tokens + len(ids)
            self.unknown_tokens += ids.count(unknown)
            if len(ids) <= self.max_length:
                continue
            if pairs:
                options = {"truncation": True, "max_length": self.max_length}
                cut = self.tokenizer(texts[number], pairs[number], **options)
                for column in columns:
                    rows[column][number] = cut[column]
            else:
                rows["input_ids"][number] = self.shorten(ids)
            self.cut_rows, self.cut_tokens = self.cut_rows + 1, self.cut_tokens + len(ids) - self.max_length
        return rows

    def shorten(self, ids: list[_Item]) -> list[_Item]:
        """Return what is kept of a list with an item for each token of a text that has more than `max_length`."""
        end = len(ids) - self.after
        size = self.max_length - self.before - self.after
        head = size if self.long_text == "head" else int(size * HEAD_SHARE)
        return ids[: self.before + head] + ids[end - (size - head) :]

    def counts(self) -> dict[str, float]:
        """Return the shares of rows and tokens that were cut, and of unknown tokens."""
        return {
            "cut_rows": self.cut_rows / max(1, self.rows),
            "cut_tokens": self.cut_tokens / max(1, self.tokens),
            "unknown_tokens": self.unknown_tokens / max(1, self.tokens),
        }


def tokenizer_files(tokenizer: "PreTrainedTokenizerBase") -> dict[str, str]:
    """Return the texts of a tokenizer's files by name."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            tokenizer.save_pretrained(folder)
        except Exception as error:  # the tokenizers library raises no other
            problem = f"a tokenizer cannot be written there ({reason(error)})"
            raise UserError(f"{folder}: {problem}; free some space, or set TMPDIR to another folder") from error
        return {file.name: file.read_text("utf-8") for file in sorted(Path(folder).iterdir())}
