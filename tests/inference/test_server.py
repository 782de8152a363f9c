import json
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from conftest import Capture, Patch
from models import changed
from served import held, serving, until_waiting

from lit_bert import Predictor
from lit_bert.errors import UserError
from lit_bert.inference import batcher, schema, server
from lit_bert.inference.batcher import Batcher
from lit_bert.inference.predictor import Prediction

TOKEN = "a-token_1"


@pytest.fixture(scope="module")
def model(trained: Path) -> Batcher:
    return Batcher(trained / "export", max_queue=20)


@pytest.fixture(scope="module")
def client(model: Batcher) -> Iterator[httpx2.Client]:
    with serving(model) as running:
        yield running


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_answers_are_the_predictors(client: httpx2.Client, model: Batcher, monkeypatch: Patch) -> None:
    texts = ["great fun", "awful"]
    answers = client.post("/predict", json={"texts": texts, "explain": True}).json()["predictions"]
    for answer, expected in zip(answers, model.predictor(texts), strict=True):
        assert answer["probs"] == pytest.approx(expected.probs, abs=0.012)
        assert answer["score"] == answer["probs"][answer["label"]]
    assert [[word["text"] for word in answer["words"]] for answer in answers] == [["great", "fun"], ["awful"]]
    monkeypatch.setattr(schema, "CAN_EXPLAIN", False)
    refused = client.post("/predict", json={"text": "fun", "explain": True})
    assert "captum is not installed" in refused.json()["detail"][0]["msg"]
    assert list(client.post("/predict", json={"text": "fun"}).json()["predictions"][0]) == ["label", "score", "probs"]


def test_requests_that_wait_are_predicted_together_and_their_answers_are_not_mixed_up(
    client: httpx2.Client, model: Batcher, monkeypatch: Patch
) -> None:
    batches = []

    def predict(texts: list[str]) -> list[Prediction]:
        batches.append(texts)
        return [Prediction(text, 1.0, {text: 1.0}) for text in texts]

    monkeypatch.setattr(model, "predictor", predict)
    rows = [[f"{row} {text}" for text in range(row % 5 + 1)] for row in range(16)]
    with ThreadPoolExecutor(16) as pool:
        with held(model):
            replies = [pool.submit(client.post, "/predict", json={"texts": row}) for row in rows]
            until_waiting(client, 16)
        labels = [[answer["label"] for answer in reply.result().json()["predictions"]] for reply in replies]
    assert labels == rows
    assert len(batches) == 1


@pytest.mark.parametrize(
    ("body", "place", "message"),
    [
        ({"texts": ["fun"] * 129}, ["texts"], "at most 128 items"),
        ({"texts": ["fun", "f" * 20_001]}, ["texts", 1], "at most 20000 characters"),
        ({"texts": ["fun", " \n"]}, ["texts", 1], "at least 1 character"),
        ({"texts": ["fun", "\u001c"]}, [], "A text is blank"),  # to Python, not to pydantic
        ({"text": "fun", "texts": ["fun"]}, [], "Give either text or texts"),
        ({"txt": "fun"}, ["txt"], "There is no such field: send text or texts"),
        ({"inputs": "fun"}, ["inputs"], "There is no such field: send text or texts"),
        (b'{"text": "half \\ud800"}', [], "Invalid JSON"),
        (b'{"text": "fun"', [], "Invalid JSON: EOF while parsing an object at line 1 column 14"),
        (b"[" * 100_000, [], "Invalid JSON"),
    ],
)
def test_what_is_not_a_request_is_answered_422_with_a_reason(
    client: httpx2.Client, body: Any, place: list[Any], message: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body)
    reply = client.post("/predict", content=content, headers={"content-type": "application/json"})
    [problem] = reply.json()["detail"]
    assert (reply.status_code, problem["loc"]) == (422, ["body", *place])
    assert message in problem["msg"]
    assert set(problem) == {"loc", "msg", "type"}  # nothing of what was sent


def test_another_type_of_content_is_explained(client: httpx2.Client) -> None:
    reply = client.post("/predict", content=b'{"text": "fun"}', headers={"content-type": "text/plain"})
    [problem] = reply.json()["detail"]
    assert (reply.status_code, problem["msg"]) == (422, "Send JSON, with the header Content-Type: application/json")


def test_a_body_that_is_too_large_is_answered_413(client: httpx2.Client) -> None:
    pieces = (b"f" * 100_000 for _ in range(11))  # their length is not announced
    for content in (b"f" * 10_000_000, pieces):
        reply = client.post("/predict", content=content)
        assert (reply.status_code, reply.json()["detail"][:43]) == (413, "the body is larger than 1,048,576 bytes; se")


def test_a_client_that_is_slow_or_gone_or_none_changes_nothing(client: httpx2.Client, monkeypatch: Patch) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.1)
    address = (client.base_url.host, client.base_url.port)
    head = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 15\r\n\r\n"
    with socket.create_connection(address) as slow:
        slow.sendall(head + b'{"te')
        reply = b"".join(iter(lambda: slow.recv(4096), b"")).decode()  # until the server ends the connection
    assert reply.startswith("HTTP/1.1 408 ")
    assert reply.endswith('"detail":"the body was not there within 0.1 seconds"}')
    for sent in (head + b'{"text": "fun"}', head + b'{"te', head, b"\x16\x03\x01\x00" * 10, b"GET / HTTP/9\r\n\r\n"):
        with socket.create_connection(address) as connection:
            connection.sendall(sent)
    assert client.post("/predict", json={"text": "great fun"}).status_code == 200


def test_a_full_queue_is_answered_503_and_long_waits_504(trained: Path, monkeypatch: Patch) -> None:
    model = Batcher(trained / "export", max_queue=3)
    with serving(model) as client, ThreadPoolExecutor(2) as pool:

        def ask() -> httpx2.Response:
            return client.post("/predict", json={"text": "fun"})

        with held(model):
            asked = [pool.submit(ask) for _ in range(2)]
            until_waiting(client, 2)
            monkeypatch.setattr(batcher, "ANSWER_SECONDS", 0.2)
            late, refused = ask(), ask()
            assert client.get("/health").text == "ok"
        assert (late.status_code, late.json()["detail"]) == (504, "there was no answer within 0.2 seconds")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert [reply.result().status_code for reply in asked] == [200, 200]
        numbers = client.get("/metrics").text
    assert re.search(r'requests_total{status="504"} 1(.*\n)+lit_bert_request_seconds_count [1-9]', numbers)


def test_a_batch_that_fails_is_answered_500_and_a_lost_gpu_ends_the_server(
    model: Batcher, client: httpx2.Client, listener: socket.socket, monkeypatch: Patch
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    error: Exception = torch.OutOfMemoryError("out of memory")
    with monkeypatch.context() as patch:
        patch.setattr(model, "predictor", fail)
        reply = client.post("/predict", json={"text": "fun"})
    assert (reply.status_code, reply.json()["detail"]) == (500, "the model failed; the server's output says why")
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    monkeypatch.setattr(Predictor, "__call__", fail)
    with ThreadPoolExecutor(1) as pool:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/predict"
        asked = pool.submit(httpx2.post, address, json={"text": "fun"}, timeout=60)
        with pytest.raises(torch.AcceleratorError):
            server.serve(Path(model.predictor.source), listener, None, 8)
    assert asked.result().status_code == 500


def test_health_info_openapi_and_a_token(trained: Path, best: Path, client: httpx2.Client) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())["test"]
    info = client.get("/info").json()
    assert (info["classes"], info["max_texts"], info["max_characters"]) == (["neg", "pos"], 128, 20_000)
    assert info["metrics"]["test"] == {"acc": round(metrics["acc"], 4), "f1": round(metrics["f1"], 4)}
    described = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert set(described["application/json"]["schema"]["properties"]) == {"text", "texts", "explain"}
    assert client.get("/docs").status_code == 404  # FastAPI's, whose scripts are on another server
    with serving(Batcher(best, max_queue=2), TOKEN) as guarded:
        assert guarded.get("/").headers["content-security-policy"].startswith("default-src 'none'; script-src 'sha256-")
        assert guarded.get("/health").text == "ok"
        for path in ("/info", "/metrics", "/openapi.json"):
            reply = guarded.get(path)
            assert (reply.headers["www-authenticate"], reply.json()["detail"][:17]) == ("Bearer", "a token is needed")
        for wrong in (f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer", TOKEN, b"Bearer \xe9"):
            reply = guarded.post("/predict", content=b"f" * 2_000_000, headers={"authorization": wrong})
            assert reply.status_code == 401
        guarded.headers["authorization"] = f"bearer {TOKEN}"
        assert guarded.post("/predict", json={"text": "fun"}).status_code == 200
        assert guarded.get("/info").json()["metrics"]["test"]["acc_low"] == metrics["acc_low"]


def test_a_signal_while_it_loads_ends_it_and_a_model_of_pairs_is_refused(
    best: Path, listener: socket.socket, monkeypatch: Patch, capsys: Capture
) -> None:
    changed(best, "pairs.ckpt", data={"text_pair_column": "hypothesis"})
    with pytest.raises(UserError, match=r"pairs.ckpt: it was trained on pairs of texts, which the server"):
        server.serve(Path("pairs.ckpt"), listener, None, 8)
    monkeypatch.setattr(server, "Batcher", lambda *_: signal.raise_signal(signal.SIGTERM))
    server.serve(best, listener, None, 8)
    assert capsys.readouterr().out == "serve    stopped\n"
