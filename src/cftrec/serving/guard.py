"""What every request passes: the token, the body's limits, the answer's headers, and the count."""

import asyncio
import hmac
from collections.abc import Callable
from time import perf_counter

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cftrec.serving.metrics import Metrics
from cftrec.serving.problems import ProblemResponse

MAX_BODY = 2**20
"""Bytes of a request's body."""
_TOO_LARGE = f"the body has more than {MAX_BODY} bytes; send fewer or shorter lists"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_HUNG_UP = 499  # as others count a client that does not wait for its answer
_OPEN = ("/", "/page.css", "/page.js", "/healthz", "/readyz")  # a probe and the empty page tell nothing


class Guard:
    """ASGI middleware around the whole application.

    Args:
        app: the application.
        metrics: where requests are counted.
        token: what a request must bear (RFC 6750) beyond the page and the probes; None: nothing.
        draining: whether the service is about to end, so that connections are closed after their answer.
        timeout_s: seconds until a request's body must be there.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, token: str | None, draining: Callable[[], bool], timeout_s: float
    ) -> None:
        self.app, self.metrics, self.draining, self.timeout_s = app, metrics, draining, timeout_s
        self.token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # what GET answers, of which the server sends no body
            scope = {**scope, "method": "GET"}
        begin, status, gone = perf_counter(), 500, False
        bounded = _limited(receive, self.timeout_s)

        async def receive_and_look() -> Message:
            nonlocal gone
            message = await bounded()
            gone = gone or message["type"] == "http.disconnect"
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = _HUNG_UP if gone else message["status"]
                MutableHeaders(scope=message).update(_HEADERS)
                if self.draining():
                    MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        try:
            refusal = self._refusal(scope)
            handler = refusal if refusal is not None else self.app
            await handler(scope, receive_and_look, send_with_headers)
        finally:
            # No route has a part of a request in it; but its pattern's end also matches before a line break.
            route = scope["path"].removesuffix("\n") if "endpoint" in scope else "other"
            self.metrics.request(route, status, perf_counter() - begin)

    def _refusal(self, scope: Scope) -> ProblemResponse | None:
        headers = Headers(scope=scope)
        if self.token is not None and scope["path"] not in _OPEN:
            scheme, _, given = headers.get("authorization", "").encode("latin-1").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(b" "), self.token):
                return ProblemResponse(401, "a bearer token is needed", headers={"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MAX_BODY:
            return ProblemResponse(413, _TOO_LARGE, headers={"Connection": "close"})
        return None


def _limited(receive: Receive, timeout_s: float) -> Receive:
    """Bound a body that comes in pieces: its length, which no header tells, and the seconds until its last piece."""
    received, whole = 0, False
    end = asyncio.get_running_loop().time() + timeout_s

    async def bounded() -> Message:
        nonlocal received, whole
        if whole:  # what comes now is the end of the connection
            return await receive()
        try:
            async with asyncio.timeout_at(end):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, "the body did not come in time", {"Connection": "close"}) from None
        whole = not message.get("more_body", False)
        received += len(message.get("body", b""))
        if received > MAX_BODY:
            raise HTTPException(413, _TOO_LARGE, {"Connection": "close"})
        return message

    return bounded
