"""ASGI middleware around every request: security headers, the size of its address, headers and body, and its pace."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.web.limits.problem import HEADERS, problem

MAXIMUM_BODY_BYTES = 1 << 20
MAXIMUM_ADDRESS_BYTES = 32 << 10  # a search may name hundreds of UIDs
MOST_HEADERS = 200  # each is looked at by every layer
_STOW = "/dicom-web/studies"  # STOW-RS, whose requests are larger
_GRACE_SECONDS = 20.0  # that a body may keep us waiting, however slow it is
_BYTES_A_SECOND = 16 << 10  # beyond it, on average: a modem's pace


class RequestLimits:
    """`stow_bytes`: the largest body of STOW-RS; 0 where it is disabled."""

    def __init__(self, app: ASGIApp, stow_bytes: int = 0, grace_seconds: float = _GRACE_SECONDS) -> None:
        self._app = app
        self._stow_bytes = stow_bytes
        self._grace_seconds = grace_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAXIMUM_ADDRESS_BYTES:
            await problem(414, "the address is too long")(scope, receive, with_headers)
        elif len(scope["headers"]) > MOST_HEADERS:
            await problem(431, f"a request has {MOST_HEADERS} headers at most")(scope, receive, with_headers)
        elif "\0" in scope["path"]:
            await problem(404, "there is no such page")(scope, receive, with_headers)
        elif b"%00" in scope["query_string"]:  # no value of ours has it, and PostgreSQL takes none that does
            part = next(part for part in scope["query_string"].split(b"&") if b"%00" in part)
            name = part.partition(b"=")[0][:64].decode("latin-1")
            await problem(400, f"{name}: contains the character NUL")(scope, receive, with_headers)
        else:
            await self._app(scope, self._limited(scope, receive), with_headers)

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        storing = scope["method"] == "POST" and scope["path"].startswith(_STOW)
        limit = max(MAXIMUM_BODY_BYTES, self._stow_bytes) if storing else MAXIMUM_BODY_BYTES
        received, waited, complete = 0, 0.0, False

        async def limited() -> Message:
            nonlocal received, waited, complete
            if complete:
                return await receive()  # waits for the client to leave, while it is answered
            start = time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), self._grace_seconds + received / _BYTES_A_SECOND - waited)
            except TimeoutError:
                raise HTTPException(408, "the request body comes too slowly") from None
            waited += time.monotonic() - start
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > limit:
                raise HTTPException(413, f"request body exceeds {limit} bytes")
            return message

        return limited
