import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from conftest import Capture, Patch, Refused
from processes import free_port
from served import until_waiting

from lit_bert.serve import main


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_when_requests_are_answered(number: signal.Signals, trained: Path, capsys: Capture) -> None:
    port = free_port()
    address, texts = f"http://127.0.0.1:{port}", {"texts": ["great fun"] * 64, "explain": True}
    transport = httpx2.HTTPTransport(retries=10)  # until it listens
    with httpx2.Client(base_url=address, timeout=60, transport=transport) as client, ThreadPoolExecutor(4) as pool:

        def interrupt() -> list[httpx2.Response]:
            assert client.get("/health").text == "ok"
            asked = [pool.submit(client.post, "/predict", json=texts) for _ in range(3)]
            until_waiting(client, 3)
            os.kill(os.getpid(), number)
            return [reply.result() for reply in asked]

        replies = pool.submit(interrupt)
        main(["--ckpt_path", str(trained / "export"), "--port", str(port)])
        assert [len(reply.json()["predictions"]) for reply in replies.result()] == [64] * 3
    assert capsys.readouterr().out == f"serve    {address} (Ctrl-C ends it)\nserve    stopped\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others can reach it; give them a token to bring"),
        (["--host", "example.org"], "--host example.org: it must be an IP address, such as 127.0.0.1"),
        (["--port", "80"], "--port 80: it must be between 1024 and 65535"),
        (["--max_queue", "0"], "--max_queue 0: it must be at least 1"),
        (["--port", "taken"], "cannot listen, Address already in use"),
        (["--ckpt_path", "nowhere.ckpt"], "nowhere.ckpt: there is no such file"),
        (["--token", "two words"], "--token or LIT_BERT_TOKEN: use letters, digits"),
        (["--host", "0.0.0.0"], "a server needs uvicorn: pip install -e '.[serve]' -c constraints.txt"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, monkeypatch: Patch, refused: Refused) -> None:
    if "pip" in message:
        monkeypatch.setenv("LIT_BERT_TOKEN", "x")
        monkeypatch.setitem(sys.modules, "uvicorn", None)
        monkeypatch.delitem(sys.modules, "lit_bert.inference.server", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = [str(taken.getsockname()[1]) if word == "taken" else word for word in words]
        said = refused(["--ckpt_path", "nowhere", "--port", str(free_port()), *words], command=main)
    assert said.count("\n") == 1
    assert message in said
