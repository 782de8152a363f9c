"""`python -m lit_bert.serve --ckpt_path X`: a trained classifier behind an address, with a page to try it on."""

import argparse
import os
import re
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from lit_bert.errors import UserError, exit_on_user_error

TOKEN_VARIABLE = "LIT_BERT_TOKEN"


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line until a signal ends it; None takes the process's arguments.

    Raises:
        SystemExit: With status 2 after a user's mistake.
    """
    options = _parser().parse_args(args)
    with exit_on_user_error():
        if options.max_queue < 1:
            raise UserError(f"--max_queue {options.max_queue}: it must be at least 1")
        listener = _listen(options.host, options.port)
        token = _check_token(options.host, options.token)
        try:
            from lit_bert.inference.server import serve  # imports torch, which takes seconds
        except ModuleNotFoundError as error:
            if error.name not in ("fastapi", "prometheus_client", "uvicorn"):
                raise
            raise UserError("a server needs FastAPI: pip install -e '.[serve]' -c constraints.txt") from error
        serve(options.ckpt_path, listener, token, options.max_queue)


def _check_token(host: str, token: str | None) -> str | None:
    """Return the token that requests have to bring: that of `--token`, or of the environment."""
    source = f"the environment's {TOKEN_VARIABLE}" if token is None else "--token"
    token = os.environ.get(TOKEN_VARIABLE) or None if token is None else token
    if token is not None and not re.fullmatch(r"[\w.~+/-]+=*", token, re.ASCII):
        raise UserError(f"{source}: use letters, digits and . _ ~ + / - =, for it stands in a header; at least one")
    if token is None and not ip_address(host).is_loopback:
        raise UserError(
            f"--host {host}: others can reach it; give them a token to bring, with {TOKEN_VARIABLE} or --token"
        )
    return token


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens: connections wait in its backlog while the model is loaded."""
    try:
        version = ip_address(host).version
    except ValueError as error:
        raise UserError(f"--host {host}: it must be an IP address, such as 127.0.0.1, 0.0.0.0 or ::") from error
    if not 1024 <= port <= 65535:
        raise UserError(f"--port {port}: it must be between 1024 and 65535")
    listener = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise UserError(f"--port {port}: cannot listen on {host} ({error.strerror}); give another one") from error
    return listener


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lit_bert serve",
        description="Serve a trained classifier: POST /predict, GET /health, /info, /metrics, and a page at /.",
    )
    where = "a checkpoint that `fit` wrote, or an exported folder; best or last takes that of the newest run in runs/"
    parser.add_argument("--ckpt_path", metavar="X", type=Path, required=True, help=where)
    hosts = "127.0.0.1 for this machine alone (default), 0.0.0.0 or :: for others, which needs a token"
    parser.add_argument("--host", default="127.0.0.1", help=hosts)
    parser.add_argument("--port", type=int, default=8000, help="from 1024 to 65535 (default: 8000)")
    token = f"what requests have to bring; {TOKEN_VARIABLE} in the environment does not show in lists of processes"
    parser.add_argument("--token", help=token)
    queue = "requests that wait for an answer at a time; any more are answered 503 (default: 256)"
    parser.add_argument("--max_queue", type=int, default=256, help=queue)
    return parser


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # before the server has started
        raise SystemExit(130) from None
