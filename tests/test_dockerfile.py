"""The image of the server: built and asked where there is a container engine, and read elsewhere."""

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGINE = shutil.which("docker") or shutil.which("podman")


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in lines]


def test_it_copies_what_there_is_and_what_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copied = [name for kind, rest in instructions() if kind == "COPY" for name in rest.split()[:-1]]
    assert set(copied) == kept
    assert all((ROOT / name).exists() for name in copied)


def test_it_serves_as_a_user_without_rights_with_options_that_exist() -> None:
    from lit_bert.serve import _parser

    kinds = [kind for kind, _ in instructions()]
    assert kinds.index("USER") > max(place for place, kind in enumerate(kinds) if kind in ("RUN", "COPY"))
    assert dict(instructions())["USER"] not in ("root", "0")
    command = json.loads(dict(instructions())["CMD"])
    assert command[:3] == ["python", "-m", "lit_bert.serve"]
    assert _parser().parse_args(command[3:]).host == "0.0.0.0"


@pytest.mark.slow
def test_the_image_answers(trained: Path) -> None:
    if ENGINE is None or subprocess.run([ENGINE, "info"], capture_output=True).returncode:
        pytest.skip("there is no container engine")
    build = [str(ENGINE), "build", "--quiet", str(ROOT)]
    image = subprocess.run(build, capture_output=True, text=True, check=True).stdout.strip()
    options = ["--rm", "-d", "-p=127.0.0.1::8000", "-e=LIT_BERT_TOKEN=secret", f"-v={trained / 'export'}:/model:ro"]
    started = subprocess.run([str(ENGINE), "run", *options, image], capture_output=True, text=True, check=True)
    container = started.stdout.strip()
    try:
        found = subprocess.run([str(ENGINE), "port", container, "8000"], capture_output=True, text=True, check=True)
        address = f"http://{found.stdout.split()[0]}"
        for _ in range(60):
            try:
                urllib.request.urlopen(f"{address}/health")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(1)
        headers = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{address}/predict", b'{"text": "great fun"}', headers)
        answer = json.load(urllib.request.urlopen(request))
        assert answer["predictions"][0]["label"] in ("neg", "pos")
    finally:
        subprocess.run([str(ENGINE), "stop", container], check=True, capture_output=True)
