import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from served import free_port, until_waiting

from lit_bert.serve import main


def test_sigterm_ends_it_when_what_was_asked_is_answered(trained: Path, tmp_path: Path) -> None:
    port = free_port()
    words = [sys.executable, "-m", "lit_bert.serve", "--ckpt_path", str(trained / "export"), "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    transport = httpx2.HTTPTransport(retries=20)  # until it listens
    with httpx2.Client(base_url=address, timeout=60, transport=transport) as client, ThreadPoolExecutor(3) as pool:
        try:
            assert client.get("/health").text == "ok"
            texts = {"texts": ["great fun"] * 64, "explain": True}
            asked = [pool.submit(client.post, "/predict", json=texts) for _ in range(3)]
            until_waiting(client, 3)
            process.terminate()
            assert [len(reply.result().json()["predictions"]) for reply in asked] == [64] * 3
            assert process.wait(60) == 0
        finally:
            process.kill()
    said = (tmp_path / "log").read_text().splitlines()
    assert said == [f"serve    {address} (Ctrl-C ends it)", "serve    stopped"]
    assert [file.name for file in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others can reach it; give them a token to bring"),
        (["--host", "::"], "--host ::: others can reach it"),
        (["--host", "example.org"], "--host example.org: it must be an IP address, such as 127.0.0.1"),
        (["--token", ""], "--token: use letters, digits"),
        (["--token", "two words"], "--token: use letters, digits"),
        (["--port", "80"], "--port 80: it must be between 1024 and 65535"),
        (["--port", "taken"], "cannot listen on 127.0.0.1 (Address already in use); give another one"),
        (["--max_queue", "0"], "--max_queue 0: it must be at least 1"),
        (["--ckpt_path", "nowhere.ckpt"], "nowhere.ckpt: there is no such file"),
        ([], "the environment's LIT_BERT_TOKEN: use letters"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not words:
        monkeypatch.setenv("LIT_BERT_TOKEN", "two words")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = [str(taken.getsockname()[1]) if word == "taken" else word for word in words]
        words = ["--ckpt_path", "nowhere", "--port", str(free_port()), *words]
        with pytest.raises(SystemExit) as stop:
            main(words)
    said = capsys.readouterr().err
    assert (stop.value.code, said.count("\n")) == (2, 1)
    assert message in said


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "lit_bert.inference.server", raising=False)
    with pytest.raises(SystemExit):
        main(["--ckpt_path", "x", "--port", str(free_port())])
    expected = "error: a server needs FastAPI: pip install -e '.[serve]' -c constraints.txt\n"
    assert capsys.readouterr().err == expected
