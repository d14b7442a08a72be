"""Cross-origin requests (CORS): which other sites' pages may call DICOMweb and the API from a browser.

Only with a bearer token: Access-Control-Allow-Credentials is never sent, and the session's cookie is SameSite=Strict,
so what a browser knows of a signed-in user opens nothing to another site.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

_METHODS = ("GET", "HEAD", "POST")
_REQUEST_HEADERS = ("Authorization", "Accept", "Content-Type")
_SHOWN_HEADERS = ("Warning", "Retry-After", "WWW-Authenticate", "Content-Location")
_PREFLIGHT_SECONDS = 600


class AllowedOrigins:
    """Answers preflights and marks answers below `prefixes` for pages of `origins`; other paths have no CORS."""

    def __init__(self, app: ASGIApp, origins: Sequence[str], prefixes: tuple[str, ...]) -> None:
        self._app = app
        self._prefixes = prefixes
        self._cors = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=_REQUEST_HEADERS,
            expose_headers=_SHOWN_HEADERS,
            max_age=_PREFLIGHT_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_shared = scope["type"] == "http" and scope["path"].startswith(self._prefixes)
        await (self._cors if is_shared else self._app)(scope, receive, send)
