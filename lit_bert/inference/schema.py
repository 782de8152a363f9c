"""What a request to the server may hold, and what an answer does."""

from importlib.util import find_spec
from typing import Annotated, Self

from pydantic import BaseModel, Field, StrictBool, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

MAX_TEXTS, MAX_CHARACTERS = 128, 20_000
"""Texts of a request, and characters of a text, at most."""

CAN_EXPLAIN = find_spec("captum") is not None

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_CHARACTERS)]


class PredictRequest(BaseModel, extra="forbid"):
    """Either `text` or `texts`; with `explain`, words come with how much they speak for the answer."""

    text: Text | None = None
    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)] | None = None
    explain: StrictBool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.text is None) == (self.texts is None):
            raise PydanticCustomError("text_or_texts", "Give either text or texts")
        if not all(text.strip() for text in self.all_texts()):  # of what pydantic takes for no blanks
            raise PydanticCustomError("blank_text", "A text is blank")
        if self.explain and not CAN_EXPLAIN:
            raise PydanticCustomError("explain", "This server cannot explain: captum is not installed there")
        return self

    def all_texts(self) -> list[str]:
        """Return the texts, of which there is at least one."""
        return self.texts or [self.text or ""]


class Word(BaseModel):
    """A word, and how much it speaks for the answer, or against it if `score` is negative."""

    text: str
    score: float


class Answer(BaseModel):
    """The most probable class, its probability in [0, 1], that of each class, and words if they were asked for."""

    label: str
    score: float
    probs: dict[str, float]
    words: list[Word] | None = None


class PredictResponse(BaseModel):
    """An answer to each text, in their order."""

    predictions: list[Answer]
