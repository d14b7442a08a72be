"""HEAD wherever there is GET (RFC 9110 9.3.2): the same status and headers, and no content is made that nobody gets."""

from __future__ import annotations

from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _Answered(Exception):
    """The headers have been sent: the application need not go on."""


class HeadAsGet:
    """Has the application answer HEAD as GET, up to the first byte of the content."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_content(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            raise _Answered

        with suppress(_Answered):
            await self._app({**scope, "method": "GET"}, receive, without_content)
