"""One thread for the model, which predicts together whatever requests wait."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from queue import Full, Queue

import torch
from fastapi import HTTPException
from prometheus_client import Gauge, Histogram

from lit_bert.inference.predictor import Predictor
from lit_bert.inference.schema import Answer, PredictRequest, PredictResponse, Word

BATCH_TEXTS = 64
"""Number of texts from which on no further request is added to a batch."""

ANSWER_SECONDS = 120.0
"""How long a request may wait for its answer."""

WAITING = Gauge("lit_bert_waiting_requests", "Requests that wait for their answer")
BATCH_ROWS = Histogram("lit_bert_batch_rows", "Texts predicted together", buckets=[2**power for power in range(9)])


class Batcher:
    """Answers requests; while a batch is predicted, the next one gathers.

    At most `max_queue` requests wait for their batch at a time. `on_failure` is called in the model's thread when
    the GPU has failed for good, and `failure` is why.
    """

    def __init__(self, source: Path, max_queue: int, on_failure: Callable[[], None] = lambda: None) -> None:
        self.failure: Exception | None = None
        self._on_failure = on_failure
        self._queue: Queue[tuple[PredictRequest, Future[PredictResponse]]] = Queue(max_queue)
        self.thread = ThreadPoolExecutor(1, "predict")
        # OpenMP keeps a pool for every thread that computes, so the model is loaded where it predicts.
        self.predictor = self.thread.submit(Predictor, source).result()

    async def answer(self, request: PredictRequest) -> PredictResponse:
        """Wait for the predictions of a request.

        Raises:
            HTTPException: 500 if the model failed, 503 if too many requests wait, 504 if there is no answer in time.
        """
        answer: Future[PredictResponse] = Future()
        try:
            self._queue.put_nowait((request, answer))
            self.thread.submit(self._answer_batch)
            with WAITING.track_inprogress():
                return await asyncio.wait_for(asyncio.wrap_future(answer), ANSWER_SECONDS)
        except Full:
            raise HTTPException(503, f"{self._queue.maxsize:,} requests wait already", {"Retry-After": "1"}) from None
        except TimeoutError:
            raise HTTPException(504, f"there was no answer within {ANSWER_SECONDS:g} seconds") from None

    def _answer_batch(self) -> None:
        """Answer what waits: an earlier call may have answered the request that this one is for."""
        batch: dict[Future[PredictResponse], PredictRequest] = {}
        while not self._queue.empty() and sum(len(request.all_texts()) for request in batch.values()) < BATCH_TEXTS:
            request, answer = self._queue.get_nowait()
            if answer.set_running_or_notify_cancel():  # one that ran out of time is cancelled
                batch[answer] = request
        if not batch:
            return
        try:
            for answer, response in zip(batch, self._predict(list(batch.values())), strict=True):
                answer.set_result(response)
        except Exception as error:
            logging.getLogger(__name__).exception("a batch was not predicted")
            if isinstance(error, torch.AcceleratorError):  # a process does not recover from an error of its GPU
                self.failure = error
                self._on_failure()
            for answer in batch:
                if not answer.done():
                    answer.set_exception(HTTPException(500, "the model failed; the server's output says why"))

    def _predict(self, requests: Sequence[PredictRequest]) -> Iterator[PredictResponse]:
        texts = [text for request in requests for text in request.all_texts()]
        BATCH_ROWS.observe(len(texts))
        predictions = iter(self.predictor(texts))
        for request in requests:
            texts = request.all_texts()
            answers = [
                Answer(label=each.label, score=each.score, probs=each.probs) for each in islice(predictions, len(texts))
            ]
            if request.explain:
                for answer, explanation in zip(answers, self.predictor.explain(texts), strict=True):
                    answer.words = [Word(text=word.text, score=word.score) for word in explanation.words]
            yield PredictResponse(predictions=answers)
