"""What a request has to pass before the server reads on: its token, the size of its body, and a queue with room."""

import asyncio
import contextlib
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

MAX_BODY = 1 << 20
"""Bytes of a request's body, at most."""

MAX_DISCARDED = 32 << 20
"""Bytes that are read and dropped of a body that is refused: many clients look for an answer only after sending all."""

BODY_SECONDS = 30.0
"""How long a client may take to send its body."""

OPEN_PATHS = ("/", "/health")
"""What is answered without a token: the page, which asks for it, and what load balancers ask."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Refused(Exception):
    """A request that is answered without the application.

    Args:
        status: Of HTTP, such as 413.
        reason: What the answer says.
        headers: Of the answer, beside those of its content.
    """

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Gate:
    """ASGI middleware that answers 401, 408, 413, 503 and 504 in place of the application, each with a reason.

    A request counts as waiting from when its body is there until it is answered: a client that is slow to send takes
    no place from others.

    Args:
        app: The application.
        token: What requests have to bring as `Authorization: Bearer <token>`; None asks for none.
        max_queue: Requests that wait for an answer at a time, at most.
        answer_seconds: How long the application may take.
    """

    def __init__(self, app: App, token: str | None, max_queue: int, answer_seconds: float) -> None:
        self.app = app
        self.token = token
        self.max_queue = max_queue
        self.answer_seconds = answer_seconds
        self.waiting = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            try:
                self._check_token(scope["path"], headers.get(b"authorization", b""))
            except Refused:
                await _discard_body(headers, receive)
                raise
            if scope["method"] == "POST":
                body = await _read_body(headers, receive)
                if body is not None:
                    await self._answer(scope, body, receive, send)
            else:
                await self.app(scope, receive, send)
        except Refused as refused:
            await _send_json(send, refused)

    def _check_token(self, path: str, authorization: bytes) -> None:
        if self.token is None or path in OPEN_PATHS:
            return
        kind, _, given = authorization.partition(b" ")
        if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self.token.encode()):
            wrong = "the token is wrong" if authorization else "a token is needed"
            raise Refused(401, f"{wrong}: send the header Authorization: Bearer <token>", www_authenticate="Bearer")

    async def _answer(self, scope: Message, body: bytes, receive: Receive, send: Send) -> None:
        """Let the application answer a request whose body has been read."""
        if self.waiting >= self.max_queue:
            reason = f"{self.max_queue:,} requests are waiting, which is as many as may; try again"
            raise Refused(503, reason, retry_after="1")
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            return next(messages, None) or await receive()

        self.waiting += 1
        try:
            async with asyncio.timeout(self.answer_seconds):
                await self.app(scope, replay, send)
        except TimeoutError:
            raise Refused(504, f"there was no answer within {self.answer_seconds:g} seconds") from None
        finally:
            self.waiting -= 1


async def _read_body(headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
    """Return the body, or None if the client is gone."""
    too_large = Refused(413, f"the body is larger than {MAX_BODY:,} bytes; send fewer texts at a time")
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > MAX_BODY:
        await _discard_body(headers, receive)
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                if len(body) > MAX_BODY:
                    if message.get("more_body"):
                        await _discard_body(headers, receive)
                    raise too_large
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise Refused(408, f"the body was not there within {BODY_SECONDS:g} seconds", connection="close") from None


async def _discard_body(headers: dict[bytes, bytes], receive: Receive) -> None:
    """Read what is left of a body, or as much of it as may be; nothing if the client asks before it sends."""
    left = 0 if b"expect" in headers else MAX_DISCARDED
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BODY_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):
                    return


async def _send_json(send: Send, refused: Refused) -> None:
    content = json.dumps({"detail": refused.reason}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(content)), **refused.headers}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": encoded})
    await send({"type": "http.response.body", "body": content})
