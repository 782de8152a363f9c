"""How fast does a server answer, and what does it stand? Ours beside plain FastAPI with a transformers pipeline.

    ours     python -m lit_bert.serve
    plain    FastAPI and uvicorn, an endpoint that calls pipeline("text-classification") with the text of the request
    before   python -m lit_bert.serve of another checkout, that of --before

All serve one exported folder, in turn, for some rounds; all requests are of this machine to itself, one text each, no
two alike, over so many connections at a time. Each answer is compared with that of `Predictor`, in this process. Then
ours is asked beside clients that are slow, leave, or send what it must refuse, and with a queue that is too short.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

TOLERANCE = 0.03  # of a probability, in bfloat16 in batches of any shape
WORDS = (  # noqa: SIM905
    "a the this film movie story plot acting cast script director ending music scenes jokes characters is was has "
    "never always too very hardly warm cold funny dull clever stupid moving boring superb awful fresh stale long short "
    "and but with without of for"
).split()


def main() -> None:
    """Run the rounds and print a table; or be the plain server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an exported folder")
    parser.add_argument("--requests", type=int, default=1000, help="requests of a round (default: 1000)")
    parser.add_argument("--connections", type=int, default=16, help="at a time (default: 16)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each server is asked (default: 3)")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="compare with the server of this checkout, too")
    parser.add_argument("--plain", type=int, metavar="PORT", help="serve plainly on this port")
    options = parser.parse_args()
    if options.plain:
        serve_plainly(options.folder, options.plain)
    else:
        asyncio.run(benchmark(options))


def serve_plainly(folder: Path, port: int) -> None:
    """Serve as a first try would."""
    import uvicorn
    from fastapi import Body, FastAPI
    from transformers import pipeline

    app = FastAPI()
    classify = pipeline("text-classification", str(folder), top_k=None, truncation=True, device="cpu")

    @app.get("/health")
    def health() -> str:
        return "ok"

    @app.post("/predict")
    def predict(text: str = Body(embed=True)) -> dict[str, Any]:
        probs = {of["label"]: of["score"] for of in classify([text])[0]}
        return {"predictions": [{"probs": probs}]}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


async def benchmark(options: argparse.Namespace) -> None:
    """Ask all servers, then what ours stands."""
    texts = unique_texts(options.requests)
    expected = predict(options.folder, texts)
    print(f"machine  {cpu()}, {os.cpu_count()} cores; Python {platform.python_version()}")
    print(f"asked    {options.requests:,} requests a round over {options.connections} connections\n")
    print("server  round  requests/s  p50 ms  p95 ms  p99 ms   right   wrong")
    rates: dict[str, list[float]] = {"ours": [], "plain": []} | ({"before": []} if options.before else {})
    for number in range(1, options.rounds + 1):
        for name in rates:
            async with started(name, options.folder, checkout=options.before) as port:
                await load(port, dict(list(expected.items())[:50]), options.connections)  # warm-up
                begin = time.perf_counter()
                replies = await load(port, expected, options.connections)
                rate = len(replies) / (time.perf_counter() - begin)
            rates[name].append(rate)
            cuts = statistics.quantiles((1000 * seconds for _, seconds in replies), n=100)
            outcome = Counter(said for said, _ in replies)
            times = "".join(f"{cuts[percent - 1]:8.0f}" for percent in (50, 95, 99))
            counts = f"{outcome['right']:8,}{len(replies) - outcome['right']:8,}"
            print(f"{name:7} {number:5} {rate:11.1f}{times}{counts}", flush=True)
    print()
    for name in rates.keys() - {"ours"}:
        ratio = statistics.median(ours / other for ours, other in zip(rates["ours"], rates[name], strict=True))
        print(f"ours answers {ratio:.2f} times as many requests per second as {name} (median of the rounds)")
    print()
    await endure(options, expected)


async def endure(options: argparse.Namespace, expected: dict[str, float]) -> None:
    """Ask ours beside bad clients, and with a short queue; print what was answered."""
    async with started("ours", options.folder) as port:
        refused: list[Awaitable[int]] = [post(port, b"not JSON") for _ in range(200)]
        refused += [post(port, json.dumps({"text": "f" * 10_000_000}).encode()) for _ in range(10)]
        clients = [slow(port) for _ in range(50)], [leave(port) for _ in range(200)], refused
        replies, slow_replies, _, statuses = await asyncio.gather(
            load(port, expected, options.connections), *(asyncio.gather(*each) for each in clients)
        )
        print(f"beside   {counted(said for said, _ in replies)}; slow clients: {counted(slow_replies)}")
        print(f"         bodies that are not JSON, and of 10 MB: {counted(statuses)}; 200 connections were dropped")
    async with started("ours", options.folder, "--max_queue", "8") as port:
        replies = await load(port, expected, 64)
        print(f"queue    of 8, 64 connections: {counted(said for said, _ in replies)}")
        again = await load(port, dict(list(expected.items())[:50]), 1)
        print(f"         then one connection: {counted(said for said, _ in again)}")


def unique_texts(number: int) -> list[str]:
    """Return so many texts of 5 to 40 words."""
    generator, texts = random.Random(0), set[str]()
    while len(texts) < number:
        texts.add(" ".join(generator.choices(WORDS, k=generator.randint(5, 40))))
    return sorted(texts, key=lambda text: generator.random())


def predict(folder: Path, texts: list[str]) -> dict[str, float]:
    """Return for each text the probability of the class whose name is the last one in the alphabet."""
    from lit_bert import Predictor

    return {text: of.probs[max(of.probs)] for text, of in zip(texts, Predictor(folder, "cpu")(texts), strict=True)}


@asynccontextmanager
async def started(name: str, folder: Path, *words: str, checkout: Path | None = None) -> AsyncIterator[int]:
    """Start a server, yield its port when it answers, and end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = folder.resolve()
    command = ["-m", "lit_bert.serve", "--ckpt_path", str(folder), "--port", str(port), *words]
    if name == "plain":
        command = [str(Path(__file__).resolve()), str(folder), "--plain", str(port)]
    # `python -m` takes the package of the folder that it is started in.
    where = checkout if name == "before" else Path(__file__).parent.parent
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, cwd=where)
    try:
        while not await answers(port):
            if process.poll() is not None:
                raise SystemExit(f"{name} did not start")
            await asyncio.sleep(0.1)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


async def answers(port: int) -> bool:
    """Tell whether the server is ready."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    status = await reader.readline()
    writer.close()
    return b" 200 " in status


def head(length: int) -> bytes:
    """Return what comes before a body."""
    return (
        "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> tuple[int, bytes]:
    """Send a request and return status and content of the reply."""
    writer.write(head(len(body)) + body)
    await writer.drain()
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(lines.partition("content-length: ")[2].split("\r\n")[0])
    return int(lines.split()[1]), await reader.readexactly(length)


async def load(port: int, expected: dict[str, float], connections: int) -> list[tuple[str, float]]:
    """Ask all texts, and return of each what came of it, "right", "wrong" or a status, and the seconds it took."""
    waiting = iter(expected.items())
    replies = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for text, prob in waiting:
            begin = time.perf_counter()
            status, content = await exchange(reader, writer, json.dumps({"text": text}).encode())
            replies.append((judge(status, content, prob), time.perf_counter() - begin))
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return replies


def judge(status: int, content: bytes, prob: float) -> str:
    """Return whether an answer is that of its text."""
    if status != 200:
        return str(status)
    [prediction] = json.loads(content)["predictions"]
    last = max(prediction["probs"])  # the pipeline sorts classes by probability
    return "right" if abs(prediction["probs"][last] - prob) < TOLERANCE else "wrong"


async def post(port: int, body: bytes) -> int:
    """Return the status of the reply to a body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    status, _ = await exchange(reader, writer, body)
    writer.close()
    return status


async def slow(port: int) -> int:
    """Send a request a byte at a time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b'{"text": "a slow but funny film"}'
    for byte in head(len(body)) + body:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.02)
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


async def leave(port: int) -> None:
    """Ask, and do not wait for the answer."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head(33) + b'{"text": "a slow but funny film"}'[: random.randint(0, 33)])
    await writer.drain()
    writer.transport.abort()


def counted(outcomes: Any) -> str:
    """Return how often each outcome was."""
    return ", ".join(f"{number:,} {outcome}" for outcome, number in sorted(Counter(map(str, outcomes)).items()))


def cpu() -> str:
    """Return the CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
