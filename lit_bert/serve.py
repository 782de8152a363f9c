"""`python -m lit_bert.serve --ckpt_path X`: a trained classifier behind an address, with a page to try it on."""

import argparse
import os
import re
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from lit_bert.errors import UserError, exit_on_user_error

TOKEN = "LIT_BERT_TOKEN"


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line until a signal ends it; None takes the process's arguments."""
    options = _parser().parse_args(args)
    with exit_on_user_error():
        if options.max_queue < 1:
            raise UserError(f"--max_queue {options.max_queue}: it must be at least 1")
        listener = _listen(options.host, options.port, options.token)
        try:
            from lit_bert.inference.server import serve  # imports torch, which takes seconds
        except ModuleNotFoundError as error:
            if error.name not in ("fastapi", "prometheus_client", "uvicorn"):
                raise
            raise UserError(f"a server needs {error.name}: pip install -e '.[serve]' -c constraints.txt") from error
        serve(options.ckpt_path, listener, options.token, options.max_queue)


def _listen(host: str, port: int, token: str | None) -> socket.socket:
    """Return a socket that listens: connections wait in its backlog while the model is loaded."""
    try:
        others_reach_it = not ip_address(host).is_loopback
    except ValueError as error:
        raise UserError(f"--host {host}: it must be an IP address, such as 127.0.0.1, 0.0.0.0 or ::") from error
    if token is None and others_reach_it:
        raise UserError(f"--host {host}: others can reach it; give them a token to bring, with {TOKEN} or --token")
    if token is not None and not re.fullmatch(r"[\w.~+/-]+=*", token, re.ASCII):
        raise UserError(f"--token or {TOKEN}: use letters, digits and . _ ~ + / - =, for it stands in a header")
    if not 1024 <= port <= 65535:
        raise UserError(f"--port {port}: it must be between 1024 and 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise UserError(f"--port {port}: cannot listen, {error.strerror}; give another one") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lit_bert serve",
        description="Serve a trained classifier: POST /predict, GET /health, /info, /metrics, and a page at /.",
    )
    where = "a checkpoint that `fit` wrote, or an exported folder; best or last takes that of the newest run in runs/"
    parser.add_argument("--ckpt_path", metavar="X", type=Path, required=True, help=where)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 or :: is for others, and needs a token")
    parser.add_argument("--port", type=int, default=8000, help="from 1024 to 65535 (default: 8000)")
    token = f"what requests have to bring; {TOKEN} in the environment does not show in lists of processes"
    parser.add_argument("--token", default=os.environ.get(TOKEN) or None, help=token)
    queue = "requests that wait for their turn at a time; any more are answered 503 (default: 256)"
    parser.add_argument("--max_queue", type=int, default=256, help=queue)
    return parser


if __name__ == "__main__":
    main()
