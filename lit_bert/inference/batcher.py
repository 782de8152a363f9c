"""One thread for the model, which predicts together whatever requests wait."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from fastapi import HTTPException
from prometheus_client import Gauge, Histogram

from lit_bert.inference.predictor import Predictor
from lit_bert.inference.schema import Answer, PredictRequest, PredictResponse, Word

BATCH_TEXTS = 64
"""Number of texts from which on no further request is added to a batch."""

QUEUE_SECONDS, PREDICT_SECONDS = 30.0, 90.0
"""How long a request may wait for its turn, and how long its prediction may take."""

WAITING = Gauge("lit_bert_waiting_requests", "Requests that wait for their answer")
BATCH_ROWS = Histogram("lit_bert_batch_rows", "Texts predicted together", buckets=[2**power for power in range(9)])

_logger = logging.getLogger(__name__)


class _Job(NamedTuple):
    request: PredictRequest
    answer: asyncio.Future[PredictResponse]
    limit: asyncio.Timeout


class Batcher:
    """Answers requests; while a batch is predicted, the next one gathers.

    Everything but `predict` runs in the event loop, so nothing needs a lock.

    Args:
        source: A checkpoint or an exported folder, as `Predictor` takes it.
        max_queue: Maximum number of requests that wait for an answer at a time.

    Raises:
        UserError: The model cannot be loaded.
    """

    def __init__(self, source: Path, max_queue: int) -> None:
        self.max_queue = max_queue
        self.running = False
        self.failure: Exception | None = None
        self._thread = ThreadPoolExecutor(1, "predict")
        # OpenMP keeps a pool for every thread that computes, so the model is loaded where it predicts.
        self.predictor = self._thread.submit(Predictor, source).result()
        self._queue: asyncio.Queue[_Job] = asyncio.Queue()
        self._unanswered: set[asyncio.Future[PredictResponse]] = set()

    async def answer(self, request: PredictRequest) -> PredictResponse:
        """Wait for the predictions of a request.

        Raises:
            HTTPException: 500 if the model failed, 503 if too many requests wait or the model is lost, 504 if there is
                no answer in time.
        """
        if not self.running:
            raise _lost()
        if len(self._unanswered) >= self.max_queue:
            reason = f"{self.max_queue:,} requests are waiting, which is as many as may; try again"
            raise HTTPException(503, reason, {"Retry-After": "1"})
        loop = asyncio.get_running_loop()
        begin = loop.time()
        answer: asyncio.Future[PredictResponse] = loop.create_future()
        self._unanswered.add(answer)
        try:
            with WAITING.track_inprogress():
                async with asyncio.timeout(QUEUE_SECONDS) as limit:
                    self._queue.put_nowait(_Job(request, answer, limit))
                    return await answer
        except TimeoutError:
            raise HTTPException(504, f"there was no answer within {loop.time() - begin:.3g} seconds") from None
        finally:
            self._unanswered.remove(answer)

    async def run(self) -> None:
        """Predict batch after batch until cancelled, or until the model is lost; `failure` is why."""
        self.running = True
        try:
            while True:
                batch = [await self._queue.get()]
                while not self._queue.empty() and sum(len(job.request.all_texts()) for job in batch) < BATCH_TEXTS:
                    batch.append(self._queue.get_nowait())
                if batch := [job for job in batch if not job.answer.done()]:
                    await self._answer_together(batch)
        except Exception as error:
            self.failure = error
        finally:
            self.running = False
            for answer in self._unanswered:
                _settle(answer, _lost())

    async def _answer_together(self, batch: Sequence[_Job]) -> None:
        loop = asyncio.get_running_loop()
        for job in batch:
            job.limit.reschedule(loop.time() + PREDICT_SECONDS)
        outcomes: Sequence[PredictResponse | HTTPException]
        try:
            outcomes = await loop.run_in_executor(self._thread, self.predict, [job.request for job in batch])
        except torch.AcceleratorError:  # a process does not recover from an error of its GPU
            raise
        except Exception:
            _logger.exception("a batch was not predicted")
            outcomes = [HTTPException(500, "the model failed; the server's output says why") for _ in batch]
        for job, outcome in zip(batch, outcomes, strict=True):
            _settle(job.answer, outcome)

    def predict(self, requests: Sequence[PredictRequest]) -> list[PredictResponse]:
        """Return a response for each request; all their texts are predicted together."""
        texts = [text for request in requests for text in request.all_texts()]
        BATCH_ROWS.observe(len(texts))
        predictions = iter(self.predictor(texts))
        responses = []
        for request in requests:
            texts = request.all_texts()
            answers = [Answer.model_validate(each, from_attributes=True) for each in islice(predictions, len(texts))]
            if request.explain:
                for answer, explanation in zip(answers, self.predictor.explain(texts), strict=True):
                    answer.words = [Word(text=text, score=score) for text, score in explanation.words]
            responses.append(PredictResponse(predictions=answers))
        return responses


def _settle(answer: "asyncio.Future[PredictResponse]", outcome: PredictResponse | HTTPException) -> None:
    """Deliver an outcome, unless the request has run out of time."""
    if answer.done():
        return
    if isinstance(outcome, HTTPException):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


def _lost() -> HTTPException:
    return HTTPException(503, "the model has failed for good, and the server ends", {"Retry-After": "1"})
