import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from conftest import WORDS
from served import held, serving, until_waiting
from transformers import AutoConfig, AutoModelForSequenceClassification

from lit_bert import Predictor
from lit_bert.errors import UserError
from lit_bert.inference import batcher, schema, server
from lit_bert.inference.batcher import Batcher
from lit_bert.inference.explain import Explanation, WordScore
from lit_bert.inference.schema import PredictRequest
from lit_bert.modeling.checkpoint import read_safely

TOKEN = "a-token_1"
JSON = {"content-type": "application/json"}


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def sharp(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported folder with other weights: random ones, so large that each text has a probability of its own."""
    folder = tmp_path_factory.mktemp("sharp") / "export"
    shutil.copytree(trained / "export", folder, ignore=shutil.ignore_patterns("SHA256SUMS"))
    config = AutoConfig.from_pretrained(folder)
    config.initializer_range = 0.3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(sharp: Path) -> Batcher:
    return Batcher(sharp, max_queue=256)


@pytest.fixture(scope="module")
def client(model: Batcher) -> Iterator[httpx2.Client]:
    """A client of that model's server."""
    with serving(model) as running:
        yield running


def test_answers_are_the_predictors_and_those_of_many_clients_are_not_mixed_up(
    client: httpx2.Client, sharp: Path
) -> None:
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, 1 + number % 20)) for number in range(300)]
    expected = Predictor(sharp)(texts)
    rows = [(start, 299 - start, (start * 7) % 300) for start in range(150)]
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda row: client.post("/predict", json={"texts": [texts[i] for i in row]}), rows))
    for row, reply in zip(rows, replies, strict=True):
        answers = reply.json()["predictions"]
        assert [answer["probs"] for answer in answers] == [pytest.approx(expected[i].probs, abs=0.012) for i in row]
        assert all(answer["score"] == max(answer["probs"].values()) for answer in answers)
        assert all(answer["probs"][answer["label"]] == answer["score"] for answer in answers)
    assert np.ptp([each.probs["neg"] for each in expected]) > 0.3  # so mixed up answers would be noticed
    [alone] = client.post("/predict", json={"text": texts[0]}).json()["predictions"]
    assert list(alone) == ["label", "score", "probs"]
    assert alone["score"] == pytest.approx(expected[0].score, abs=0.012)


@pytest.mark.parametrize(
    ("body", "place", "message"),
    [
        ({"texts": ["fun"] * 129}, ["texts"], "at most 128 items"),
        ({"texts": []}, ["texts"], "at least 1 item"),
        ({"texts": ["fun", "f" * 20_001]}, ["texts", 1], "at most 20000 characters"),
        ({"texts": ["fun", " \n"]}, ["texts", 1], "The text is empty"),
        ({"text": ""}, ["text"], "The text is empty"),
        ({"text": 3}, ["text"], "valid string"),
        ({"text": "fun", "texts": ["fun"]}, [], "Give either text or texts"),
        ({}, [], "Give either text or texts"),
        ({"txt": "fun"}, ["txt"], "Extra inputs are not permitted"),
        ({"text": "fun", "explain": 1}, ["explain"], "valid boolean"),
        (["fun"], [], "an object"),
        (b'{"text": "half \\ud800"}', [], "Invalid JSON"),
        (b'{"text": "fun"', [], "Invalid JSON: EOF while parsing an object at line 1 column 14"),
        (b"\x00\xff", [], "Invalid JSON"),
        (b"[" * 100_000, [], "Invalid JSON"),
        (b'{"text": ' + b"9" * 5000 + b"}", [], "Invalid JSON"),
    ],
)
def test_what_is_not_a_request_is_answered_422_with_a_reason(
    client: httpx2.Client, body: Any, place: list[Any], message: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = client.post("/predict", content=content, headers=JSON)
    [problem] = reply.json()["detail"]
    assert (reply.status_code, problem["loc"]) == (422, ["body", *place])
    assert message in problem["msg"]
    assert set(problem) == {"loc", "msg", "type"}  # nothing of what was sent


def test_another_type_of_content_and_a_missing_captum_are_explained(
    client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = client.post("/predict", content=b'{"text": "fun"}', headers={"content-type": "text/plain"})
    message = "Send JSON, with the header Content-Type: application/json"
    assert (reply.status_code, reply.json()["detail"][0]["msg"]) == (422, message)
    monkeypatch.setattr(schema, "CAN_EXPLAIN", False)
    reply = client.post("/predict", json={"text": "fun", "explain": True})
    assert (reply.status_code, reply.json()["detail"][0]["type"]) == (422, "explain")


def test_words_of_an_explanation_are_in_the_answer(
    client: httpx2.Client, model: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explain(texts: list[str]) -> list[Explanation]:
        words = [[WordScore(word, len(word) / 10) for word in text.split()] for text in texts]
        return [Explanation("pos", 1.0, scores, 0.0) for scores in words]

    [answer] = client.post("/predict", json={"text": "great fun", "explain": True}).json()["predictions"]
    assert [word["text"] for word in answer["words"]] == ["great", "fun"]
    monkeypatch.setattr(model.predictor, "explain", explain)
    requests = [PredictRequest(text="fun"), PredictRequest(texts=["great fun", "awful"], explain=True)]
    first, second = model.predict(requests)
    assert "words" not in first.model_dump()["predictions"][0]
    words = [[(word.text, word.score) for word in answer.words or []] for answer in second.predictions]
    assert words == [[("great", 0.5), ("fun", 0.3)], [("awful", 0.5)]]


def test_a_body_that_is_too_large_is_answered_413(client: httpx2.Client) -> None:
    def chunks() -> Iterator[bytes]:  # a body whose length is not announced
        for _ in range(11):
            yield b"f" * 100_000

    large = [json.dumps({"text": "f" * 10_000_000}).encode(), chunks()]
    for content, more in ((large[0], {}), (large[0], {"connection": "close"}), (large[1], {})):
        reply = client.post("/predict", content=content, headers={**JSON, **more})
        reason = "the body is larger than 1,048,576 bytes; send fewer texts at a time"
        assert (reply.status_code, reply.json()["detail"]) == (413, reason)


def test_a_client_that_is_slow_or_gone_or_no_client_leaves_it_as_it_was(
    client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.BODY_SECONDS == 30
    monkeypatch.setattr(server, "BODY_SECONDS", 0.1)
    address = (client.base_url.host, client.base_url.port)
    head = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n"
    with socket.create_connection(address) as slow:
        slow.sendall(head + b'{"te')
        reply = b"".join(iter(lambda: slow.recv(4096), b"")).decode().lower()  # until the server ends the connection
    assert reply.startswith("http/1.1 408 ")
    assert "\r\nconnection: close\r\n" in reply
    assert reply.endswith('"detail":"the body was not there within 0.1 seconds"}')
    for sent in (head + b'{"text": "fun"}', head + b'{"te', head, b"\x16\x03\x01\x00" * 10, b"GET / HTTP/9\r\n\r\n"):
        with socket.create_connection(address) as connection:
            connection.sendall(sent)
    assert client.post("/predict", json={"text": "great fun"}).status_code == 200


def test_a_full_queue_is_answered_503_and_long_waits_504(sharp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (batcher.QUEUE_SECONDS, batcher.PREDICT_SECONDS) == (30, 90)
    model = Batcher(sharp, max_queue=2)
    with serving(model) as client, ThreadPoolExecutor(2) as pool:

        def ask() -> httpx2.Response:
            return client.post("/predict", json={"text": "fun"})

        with held(model):
            first = pool.submit(ask)
            until_waiting(client, 1)
            with monkeypatch.context() as patch:
                patch.setattr(batcher, "QUEUE_SECONDS", 0.2)
                late = ask()
            second = pool.submit(ask)
            until_waiting(client, 2)
            refused = ask()
            assert client.get("/health").text == "ok"
        assert late.status_code == 504
        assert re.fullmatch(r"there was no answer within 0\.\d+ seconds", late.json()["detail"])
        reason = "2 requests are waiting, which is as many as may; try again"
        assert (refused.status_code, refused.headers["retry-after"], refused.json()["detail"]) == (503, "1", reason)
        assert [first.result().status_code, second.result().status_code] == [200, 200]
        with held(model), monkeypatch.context() as patch:
            patch.setattr(batcher, "PREDICT_SECONDS", 0.2)
            assert ask().status_code == 504
        assert ask().status_code == 200
        numbers = client.get("/metrics").text
    for line in (
        r'lit_bert_requests_total{status="503"} 1',
        r'lit_bert_requests_total{status="504"} 2',
        "lit_bert_batch_rows_sum [1-9]",
        "lit_bert_request_seconds_count [1-9]",
        "lit_bert_waiting_requests 0",
    ):
        assert re.search(f"^{line}", numbers, re.MULTILINE), line


def test_a_batch_that_fails_is_answered_500_and_a_lost_gpu_ends_the_server(
    model: Batcher, client: httpx2.Client, sharp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error: Exception = torch.OutOfMemoryError("out of memory")

    def fail(*_: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(model, "predict", fail)
        reply = client.post("/predict", json={"text": "fun"})
    assert (reply.status_code, reply.json()["detail"]) == (500, "the model failed; the server's output says why")
    assert client.post("/predict", json={"text": "fun"}).status_code == 200
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    monkeypatch.setattr(Batcher, "predict", fail)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/predict"
        asked = pool.submit(httpx2.post, address, json={"text": "fun"}, timeout=60, trust_env=False)
        with pytest.raises(torch.AcceleratorError):
            server.serve(sharp, listener, None, 8)
    assert asked.result().status_code == 503


def test_health_info_openapi_and_a_token(trained: Path, best: Path, client: httpx2.Client) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())["test"]
    info = client.get("/info").json()
    assert (info["classes"], info["max_texts"], info["max_characters"]) == (["neg", "pos"], 128, 20_000)
    assert info["metrics"]["test"] == {"acc": round(metrics["acc"], 4), "f1": round(metrics["f1"], 4)}
    described = client.get("/openapi.json").json()["paths"]
    assert set(described) == {"/health", "/info", "/predict"}
    body = described["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == {"text", "texts", "explain"}
    assert client.get("/docs").status_code == 404  # FastAPI's, whose scripts are on another server
    assert client.get("/predict").status_code == 405
    model = Batcher(best, max_queue=2)
    with serving(model, TOKEN) as guarded:
        open_pages = ("/", "/health")
        assert [guarded.get(path).status_code for path in open_pages] == [200, 200]
        for path in ("/info", "/metrics", "/openapi.json"):
            reply = guarded.get(path)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
            assert reply.json()["detail"] == "a token is needed: send the header Authorization: Bearer <token>"
        for wrong in (f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer", TOKEN, b"Bearer \xe9"):
            reply = guarded.post("/predict", content=b"f" * 2_000_000, headers={"authorization": wrong})
            assert (reply.status_code, reply.json()["detail"][:18]) == (401, "the token is wrong")
        guarded.headers["authorization"] = f"bearer {TOKEN}"
        assert guarded.post("/predict", json={"text": "fun"}).status_code == 200
        assert guarded.get("/info").json()["metrics"]["test"]["acc_low"] == metrics["acc_low"]
    assert not model.running


def test_ctrl_c_ends_it_when_what_was_asked_is_answered(sharp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(2) as pool:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def interrupt() -> httpx2.Response:
            with httpx2.Client(base_url=address, timeout=60, trust_env=False) as client:
                asked = pool.submit(client.post, "/predict", json={"texts": ["great fun"] * 64, "explain": True})
                until_waiting(client, 1)
                os.kill(os.getpid(), signal.SIGINT)
                return asked.result()

        reply = pool.submit(interrupt)
        server.serve(sharp, listener, None, 8)
    assert len(reply.result().json()["predictions"]) == 64
    assert capsys.readouterr().out == f"serve    {address} (Ctrl-C ends it)\nserve    stopped\n"


def test_a_signal_while_it_loads_ends_it_and_a_model_of_pairs_is_refused(
    best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_safely(best)
    content["datamodule_hyper_parameters"]["text_pair_column"] = "hypothesis"
    torch.save(content, tmp_path / "pairs.ckpt")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(UserError, match=r"pairs.ckpt: it was trained on pairs of texts, which the server does not"):
            server.serve(tmp_path / "pairs.ckpt", listener, None, 8)
        monkeypatch.setattr(server, "Batcher", lambda *_: signal.raise_signal(signal.SIGTERM))
        server.serve(best, listener, None, 8)
    assert capsys.readouterr().out == "serve    stopped\n"
