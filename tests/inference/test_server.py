import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import Browser
from conftest import BAD, GOOD, WORDS
from pydantic import ValidationError
from served import Served, free_port, served
from transformers import AutoConfig, AutoModelForSequenceClassification

from lit_bert import Predictor
from lit_bert.errors import UserError
from lit_bert.inference import gate, server
from lit_bert.inference.explain import Explanation, WordScore
from lit_bert.inference.gate import MAX_BODY, Gate
from lit_bert.inference.predictor import Prediction
from lit_bert.inference.schema import MAX_CHARACTERS, MAX_TEXTS, PredictRequest
from lit_bert.inference.server import ClassifierAPI
from lit_bert.modeling.checkpoint import read_safely
from lit_bert.serve import main as run_serve

TOKEN = "a-token_1"


@pytest.fixture(scope="module")
def sharp(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported folder with other weights: random ones, so large that each text has a probability of its own."""
    folder = tmp_path_factory.mktemp("sharp") / "export"
    shutil.copytree(trained / "export", folder)
    (folder / "SHA256SUMS").unlink()
    config = AutoConfig.from_pretrained(folder)
    config.initializer_range = 0.3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shared(sharp: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of that folder."""
    with served(["--ckpt_path", str(sharp)], tmp_path_factory.mktemp("served") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def guarded(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of the checkpoint, which asks for a token, and at which two requests may wait."""
    [best] = trained.glob("checkpoints/epoch=*.ckpt")
    words = ["--ckpt_path", str(best), "--max_queue", "2", "--host", "0.0.0.0"]
    with served(words, tmp_path_factory.mktemp("served") / "log", LIT_BERT_TOKEN=TOKEN) as running:
        yield running


def test_each_text_is_answered_as_by_the_predictor_in_their_order(shared: Served, sharp: Path) -> None:
    texts = [*GOOD, *BAD]
    expected = Predictor(sharp)(texts)
    answers = shared("/predict", {"texts": texts}).content["predictions"]
    assert [answer["label"] for answer in answers] == [prediction.label for prediction in expected]
    assert [answer["score"] for answer in answers] == pytest.approx([each.score for each in expected], abs=0.01)
    assert [list(answer) for answer in answers] == [["label", "score", "probs"]] * len(texts)
    assert all(answer["probs"][answer["label"]] == answer["score"] for answer in answers)
    reply = shared("/predict", {"text": texts[0]})
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    [alone] = reply.content["predictions"]
    assert (alone["label"], alone["score"]) == (expected[0].label, pytest.approx(expected[0].score, abs=0.01))


def test_answers_of_many_clients_are_not_mixed_up(shared: Served, sharp: Path) -> None:
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, 1 + number % 20)) for number in range(300)]
    probs = np.array(list(Predictor(sharp).stream(texts)))[:, 0]
    apart: list[int] = []  # texts whose probabilities are told apart whatever shares their batch
    for row in np.argsort(probs):
        if not apart or probs[row] - probs[apart[-1]] > 0.025:
            apart.append(int(row))
    assert len(apart) >= 15
    requests = [(apart[start % len(apart)], apart[-1 - start % len(apart)]) for start in range(200)]
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda rows: shared("/predict", {"texts": [texts[row] for row in rows]}), requests))
    for rows, reply in zip(requests, replies, strict=True):
        answers = [answer["probs"]["neg"] for answer in reply.content["predictions"]]
        assert answers == pytest.approx([probs[row] for row in rows], abs=0.012)


@pytest.mark.parametrize(
    ("body", "place", "message"),
    [
        ({"texts": ["fun"] * (MAX_TEXTS + 1)}, ["texts"], f"at most {MAX_TEXTS} items"),
        ({"texts": []}, ["texts"], "at least 1 item"),
        ({"texts": ["fun", "f" * (MAX_CHARACTERS + 1)]}, ["texts", 1], f"at most {MAX_CHARACTERS} characters"),
        ({"texts": ["fun", " \n"]}, ["texts", 1], "The text is empty"),
        ({"text": ""}, ["text"], "The text is empty"),
        ({"text": 3}, ["text"], "valid string"),
        ({"text": "half \ud800"}, ["text"], "valid string"),
        ({"text": "fun", "texts": ["fun"]}, [], "Give either text or texts"),
        ({}, [], "Give either text or texts"),
        ({"txt": "fun"}, ["txt"], "Extra inputs are not permitted"),
        ({"text": "fun", "explain": 1}, ["explain"], "valid boolean"),
        (["fun"], [], "valid dictionary"),
        (b'{"text": "fun"', [14], "JSON decode error: Expecting ',' delimiter"),
        (b"fun", [0], "JSON decode error: Expecting value"),
    ],
)
def test_what_is_not_a_request_is_answered_422_with_a_reason(
    shared: Served, body: Any, place: list[Any], message: str
) -> None:
    reply = shared("/predict", body, content_type="application/json")
    assert reply.status == 422
    [problem] = reply.content["detail"]
    assert problem["loc"] == ["body", *place]
    assert message in problem["msg"]
    assert list(problem) == ["loc", "msg", "type"]  # nothing of what was sent


def test_bytes_that_are_no_text_are_refused(shared: Served) -> None:
    for body in (b"\x00\xff", b"\xff\xfe\xfd", b"[" * 100_000, b'{"text": ' + b"9" * 5000 + b"}"):
        reply = shared("/predict", body, content_type="application/json")
        assert reply.status in (400, 422)
        assert reply.content["detail"]


def test_another_type_of_content_is_explained(shared: Served) -> None:
    reply = shared("/predict", b'{"text": "fun"}', content_type="text/plain")
    assert (reply.status, reply.content["detail"][0]["msg"]) == (
        422,
        "Send JSON, with the header Content-Type: application/json",
    )


def test_an_explanation_is_refused_where_captum_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_bert.inference.schema.CAN_EXPLAIN", False)
    with pytest.raises(ValidationError, match="captum is not installed"):
        PredictRequest(text="fun", explain=True)


def test_an_answer_is_explained(shared: Served) -> None:
    [answer] = shared("/predict", {"text": "great fun", "explain": True}).content["predictions"]
    assert [word["text"] for word in answer["words"]] == ["great", "fun"]


def test_words_of_an_explanation_are_in_the_answer() -> None:
    class Explaining:
        def __call__(self, texts: list[str]) -> list[Prediction]:
            return [Prediction("pos", 1.0, {"neg": 0.0, "pos": 1.0}) for _ in texts]

        def explain(self, texts: list[str]) -> list[Explanation]:
            words = [[WordScore(word, len(word) / 10) for word in text.split()] for text in texts]
            return [Explanation("pos", 1.0, scores, 0.0) for scores in words]

    api = ClassifierAPI("nowhere")
    api.predictor = Explaining()  # type: ignore[assignment]
    asked = PredictRequest.model_construct(texts=["great fun", "awful"], explain=True)
    first, second = api.predict([PredictRequest(text="fun"), asked])
    assert first.model_dump() == {"predictions": [{"label": "pos", "score": 1.0, "probs": {"neg": 0.0, "pos": 1.0}}]}
    assert [[(word.text, word.score) for word in answer.words or []] for answer in second.predictions] == [
        [("great", 0.5), ("fun", 0.3)],
        [("awful", 0.5)],
    ]


def test_a_body_that_is_too_large_is_answered_413(shared: Served) -> None:
    reply = shared("/predict", {"text": "f" * 10_000_000})
    assert (reply.status, reply.content["detail"]) == (
        413,
        f"the body is larger than {MAX_BODY:,} bytes; send fewer texts at a time",
    )
    connection = HTTPConnection("127.0.0.1", shared.port, timeout=60)  # which does not say how much will come
    chunks = iter([b"f" * 100_000] * 11)
    connection.request("POST", "/predict", chunks, {"content-type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_dropped_connections_and_noise_leave_it_as_it_was(shared: Served) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n"
    for sent in (head + b'{"text": "fun"}', head + b'{"te', head, b"\x16\x03\x01\x00" * 10, b"GET / HTTP/9\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", shared.port)) as connection:
            connection.sendall(sent)
    assert shared("/predict", {"text": "great fun"}).status == 200


def test_health_info_and_openapi(shared: Served, guarded: Served, trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    assert shared("/health").content == "ok"
    info = shared("/info").content
    assert info["classes"] == ["neg", "pos"]
    assert info["version"]
    assert info["metrics"]["test"] == {"acc": round(metrics["test"]["acc"], 4), "f1": round(metrics["test"]["f1"], 4)}
    info = guarded("/info", authorization=f"Bearer {TOKEN}").content
    assert info["metrics"]["test"]["acc_low"] == metrics["test"]["acc_low"]
    described = shared("/openapi.json").content
    assert set(described["paths"]) == {"/health", "/info", "/predict"}
    assert described["components"]["schemas"]["PredictRequest"]["properties"].keys() == {"text", "texts", "explain"}
    assert shared("/docs").status == 404  # FastAPI's, whose scripts are on another server
    assert shared("/predict").status == 405


def test_a_token_is_asked_for(guarded: Served) -> None:
    for path, body in (("/predict", {"text": "fun"}), ("/info", None), ("/openapi.json", None), ("/predict", b"f")):
        reply = guarded(path, body)
        assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert "a token is needed" in reply.content["detail"]
    for wrong in (f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer", TOKEN, "Bearer \xe9"):
        reply = guarded("/predict", {"text": "fun"}, authorization=wrong)
        assert reply.status == 401
        assert "the token is wrong" in reply.content["detail"]
    assert guarded("/predict", {"text": "fun"}, authorization=f"bearer {TOKEN}").status == 200
    assert [guarded(path).status for path in ("/", "/health")] == [200, 200]


def test_a_full_queue_is_answered_503_and_those_that_wait_are_answered(guarded: Served) -> None:
    def ask(text: str) -> Any:
        return guarded("/predict", {"text": text}, authorization=f"Bearer {TOKEN}")

    with ThreadPoolExecutor(2) as pool:
        with guarded.busy():
            waiting = [pool.submit(ask, text) for text in ("great fun", "awful")]
            time.sleep(2)  # until they wait
            reply = ask("no fun")
            assert (reply.status, reply.headers["retry-after"], reply.content["detail"]) == (
                503,
                "1",
                "2 requests are waiting, which is as many as may; try again",
            )
            assert guarded("/health").status == 200
        assert [of.result().status for of in waiting] == [200, 200]
    assert ask("no fun").status == 200


@pytest.mark.parametrize(("number", "group"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_signal_ends_it_when_what_was_asked_is_answered(
    number: signal.Signals, group: bool, trained: Path, tmp_path: Path
) -> None:
    with served(["--ckpt_path", str(trained / "export")], tmp_path / "log") as running:
        with ThreadPoolExecutor(8) as pool:
            with running.busy():
                asked = [pool.submit(running, "/predict", {"texts": [text] * 20}) for text in [*GOOD, *BAD][:8]]
                time.sleep(1)  # until they wait
                stopping = ThreadPoolExecutor(1).submit(running.stop, number, group)
                time.sleep(1)
            assert [len(of.result().content["predictions"]) for of in asked] == [20] * 8
        assert stopping.result() == 0
        ready, stopped = running.log.read_text().splitlines()
        assert (ready, stopped) == (f"serve    http://127.0.0.1:{running.port} (Ctrl-C ends it)", "serve    stopped")
    assert [file.name for file in tmp_path.iterdir()] == ["log"]  # no client.py


@pytest.mark.parametrize(("number", "processes"), [(signal.SIGINT, 2), (signal.SIGTERM, 4)])
def test_a_signal_before_it_is_ready_ends_it(
    number: signal.Signals, processes: int, trained: Path, tmp_path: Path
) -> None:
    running = Served(["--ckpt_path", str(trained / "export")], tmp_path / "log")
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
    for _ in range(6000):
        if len(children.read_text().split()) >= processes:
            break
        time.sleep(0.01)
    else:
        raise AssertionError(running.log.read_text())
    assert running.stop(number, group=True) == 0
    *before, last = running.log.read_text().splitlines()
    assert last == "serve    stopped"
    assert before in ([], [f"serve    http://127.0.0.1:{running.port} (Ctrl-C ends it)"])


def test_a_signal_is_not_lost_while_processes_are_started(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that is raised at a fork is swallowed by Python's callbacks, and the server would go on."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    reached = []

    def run(self: server.Server, *args: Any, **kwargs: Any) -> None:
        self.workers_setup_status = {"predict_0": "ready"}
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("started")
        self.verify_worker_status()
        reached.append("loaded")
        self.ready.set()
        time.sleep(10)  # as LitServe waits
        reached.append("slept")

    monkeypatch.setattr(server.Server, "run", run)
    try:
        server.Server(str(trained / "export"), {"version": "1"}, None, 1, "").serve("127.0.0.1", free_port())
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert reached == ["started", "loaded"]


def test_a_worker_that_dies_is_replaced(trained: Path, tmp_path: Path) -> None:
    with served(["--ckpt_path", str(trained / "export")], tmp_path / "log") as running:
        os.kill(running.worker(), signal.SIGKILL)
        time.sleep(3)
        running.wait()
        assert running("/predict", {"text": "fun"}).status == 200  # within the gate's two minutes


def test_the_page_needs_nothing_from_elsewhere(shared: Served) -> None:
    reply = shared("/")
    policy = dict(rule.split(" ", 1) for rule in reply.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert re.fullmatch(r"'sha256-[\w+/=]{44}'", policy["script-src"])
    assert "unsafe" not in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"https?:|//\w|@import|url\(", reply.content)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|\son\w+=", reply.content)
    assert "style=" not in reply.content


Mistake = tuple[list[str], str]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others can reach it; give them a token to bring"),
        (["--host", "::"], "--host ::: others can reach it"),
        (["--host", "example.org"], "--host example.org: it must be one of 127.0.0.1, 0.0.0.0, ::"),
        (["--token", ""], "--token: use letters, digits"),
        (["--token", "two words"], "--token: use letters, digits"),
        (["--port", "80"], "--port 80: it must be between 1024 and 65535"),
        (["--max_queue", "0"], "--max_queue 0: it must be at least 1"),
        (["--ckpt_path", "nowhere.ckpt"], "nowhere.ckpt: there is no such file"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_serve(["--ckpt_path", "nowhere", "--port", str(free_port()), *words])
    said = capsys.readouterr().err
    assert (stop.value.code, said.count("\n")) == (2, 1)
    assert message in said


def test_a_port_in_use_and_a_bad_token_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit):
            run_serve(["--ckpt_path", "nowhere", "--port", str(taken.getsockname()[1])])
    assert "cannot listen on 127.0.0.1 (Address already in use); give another one" in capsys.readouterr().err
    monkeypatch.setenv("LIT_BERT_TOKEN", "two words")
    with pytest.raises(SystemExit):
        run_serve(["--ckpt_path", "nowhere", "--port", str(free_port())])
    assert "the environment's LIT_BERT_TOKEN: use letters" in capsys.readouterr().err


def test_a_model_of_pairs_is_refused(best: Path, tmp_path: Path) -> None:
    content = read_safely(best)
    content["datamodule_hyper_parameters"]["text_pair_column"] = "hypothesis"
    torch.save(content, tmp_path / "pairs.ckpt")
    with pytest.raises(
        UserError, match=r"pairs.ckpt: it was trained on pairs of texts, which the server does not take"
    ):
        server.describe(tmp_path / "pairs.ckpt")


def test_a_card_that_was_edited_has_no_figures(trained: Path, tmp_path: Path) -> None:
    from lit_bert.inference.card import read_card_metrics

    assert read_card_metrics(tmp_path) == {}
    for text in ("", "---\nmodel-index: [\n---\n", "---\nmodel-index: 3\n---\n"):
        (tmp_path / "README.md").write_text(text)
        assert read_card_metrics(tmp_path) == {}


def test_without_the_extra_it_says_what_to_install() -> None:
    code = "import runpy, sys; sys.modules['litserve'] = None; runpy.run_module('lit_bert.serve', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, "--ckpt_path", "x"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "error: a server needs LitServe: pip install -e '.[serve]' -c constraints.txt\n",
    )


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A browser on a phone's screen."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium")
    with Browser.started(program, tmp_path / "profile") as running:
        running.screen(390, 844)
        yield running


@pytest.mark.slow
def test_the_page_in_a_browser(shared: Served, browser: Browser) -> None:
    browser.open(f"http://127.0.0.1:{shared.port}/")
    browser.until("byId('about').textContent.startsWith('Classes: neg, pos; accuracy')")
    browser.type("great fun")
    browser.press("Tab")  # the first example
    browser.press("Enter")
    browser.until("byId('verdict').textContent && text.value === 'A warm and funny film.'")
    browser.evaluate("text.focus(); text.value = ''")
    browser.type("great fun")
    browser.press("Enter", control=True)
    [answer] = shared("/predict", {"text": "great fun"}).content["predictions"]
    browser.until(f"byId('verdict').textContent.startsWith('{answer['label']}, {100 * answer['score']:.1f} %')")
    assert browser.evaluate("byId('classes').children.length") == 2
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    browser.evaluate(f"text.value = 'f'.repeat({MAX_CHARACTERS + 1}); byId('submit').click()")
    browser.until(f"byId('error').textContent.includes('at most {MAX_CHARACTERS} characters')")
    assert browser.evaluate("byId('answer').hidden")
    browser.evaluate("text.value = ' '; byId('submit').click()")
    browser.until("byId('error').textContent === 'The text is empty'")
    with shared.busy():  # an answer that comes after another one was asked for is not shown
        browser.evaluate("text.value = 'awful'; byId('submit').click(); text.value = ' '; byId('submit').click()")
        browser.until("byId('error').textContent === 'The text is empty'")
    assert browser.messages == []


@pytest.mark.slow
def test_markup_is_shown_as_text_and_words_are_coloured(shared: Served, browser: Browser) -> None:
    browser.open(f"http://127.0.0.1:{shared.port}/")
    markup = "<img src=x onerror=document.title='ran'><script>document.title='ran'</script>"
    browser.evaluate(
        f"""show({{label: {json.dumps(markup)}, score: 0.5, probs: {{{json.dumps(markup)}: 0.5}},
        words: [{{text: {json.dumps(markup)}, score: 0.2}}, {{text: 'dull', score: -0.4}}]}})"""
    )
    assert markup in browser.evaluate("byId('verdict').textContent")
    assert browser.evaluate("byId('words').children[0].textContent") == markup
    assert browser.evaluate("byId('words').children[1].className") == "against"
    assert browser.evaluate("getComputedStyle(byId('words').children[1]).backgroundColor.includes('0.6')")
    assert browser.evaluate("document.querySelectorAll('#answer img, #answer script').length") == 0
    browser.evaluate(f"text.value = {json.dumps(markup)}; byId('submit').click()")
    browser.until("byId('submit').textContent === 'Classify' && !byId('answer').hidden")
    browser.evaluate("document.body.append(document.createElement('script')); document.body.lastChild.text = 'stop()'")
    assert browser.evaluate("document.title") == "Try the classifier"
    assert len(browser.messages) == 1  # of the last script, which the policy does not let run
    assert "Content Security Policy" in browser.messages[0]


@pytest.mark.slow
def test_the_page_asks_for_a_token_and_says_when_the_server_is_gone(
    guarded: Served, browser: Browser, trained: Path, tmp_path: Path
) -> None:
    browser.open(f"http://127.0.0.1:{guarded.port}/")
    browser.until("byId('error').textContent.startsWith('a token is needed') && !byId('token-field').hidden")
    browser.evaluate("text.value = 'great fun'; token.value = 'wrong'; byId('submit').click()")
    browser.until("byId('error').textContent.startsWith('the token is wrong') && document.activeElement === token")
    browser.evaluate("token.value = ''")
    browser.type(TOKEN)
    browser.press("Enter")
    browser.until("!byId('answer').hidden && byId('error').textContent === ''")
    with served(["--ckpt_path", str(trained / "export")], tmp_path / "log") as running:
        browser.open(f"http://127.0.0.1:{running.port}/")
        browser.until("byId('about').textContent !== ''")
    browser.evaluate("text.value = 'great fun'; byId('submit').click()")
    browser.until("byId('error').textContent === 'The server does not answer. Is it still running?'")


async def through(each: Gate, received: list[dict[str, Any]], **headers: str) -> list[dict[str, Any]]:
    """Return what a gate sends on a POST of these messages, after which the client is silent."""
    sent: list[Any] = []
    messages = iter(received)

    async def receive() -> Any:
        if message := next(messages, None):
            return message
        return await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    encoded = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await each({"type": "http", "method": "POST", "path": "/predict", "headers": encoded}, receive, send)
    return sent


def test_a_client_that_is_slow_or_gone_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it should not have come this far")

    monkeypatch.setattr(gate, "BODY_SECONDS", 0.05)
    each = Gate(answer, None, 1, 60)
    part = {"type": "http.request", "body": b"{", "more_body": True}
    start, end = asyncio.run(through(each, [part]))
    assert (start["status"], dict(start["headers"])[b"connection"]) == (408, b"close")
    assert b"the body was not there within 0.05 seconds" in end["body"]
    assert asyncio.run(through(each, [part, {"type": "http.disconnect"}])) == []
    assert each.waiting == 0


def test_an_answer_that_does_not_come_is_a_504() -> None:
    async def never(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(60)

    each = Gate(never, None, 1, 0.05)
    start, end = asyncio.run(through(each, [{"type": "http.request", "body": b"{}"}]))
    assert (start["status"], json.loads(end["body"])["detail"]) == (504, "there was no answer within 0.05 seconds")
    assert each.waiting == 0
