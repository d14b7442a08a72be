"""A destination that is asked over HTTP: connection, bearer token, TLS, and what is true of every answer."""

from __future__ import annotations

import os
import ssl
from http import HTTPStatus
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from worker.errors import Retry
from worker.send.destinations.base import HttpDestination
from worker.tls import client_context

# The server, or what stands before it, cannot just now; 500 may be this object's fault, and still nothing is given up.
PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, *range(500, 600)} - {
    HTTPStatus.NOT_IMPLEMENTED,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
}


class Session(requests.Session):
    """One server and nothing else: no proxy or password from the environment, no redirect.

    A redirected POST becomes a GET, whose 200 would look like success.
    """

    def __init__(self, context: ssl.SSLContext | None, accept: str) -> None:
        super().__init__()
        self.trust_env = False
        self.headers["Accept"] = accept
        self.last: requests.Response | None = None
        self.hooks["response"].append(self._remember)
        if context is not None:
            self.mount("https://", _TlsAdapter(context))

    def request(self, method: Any, url: Any, **arguments: Any) -> requests.Response:  # type: ignore[override]
        arguments["allow_redirects"] = False
        # dicomweb-client's has no port in it (RFC 9110 7.2); left out, the right one is sent.
        (arguments.get("headers") or {}).pop("Host", None)
        return super().request(method, url, **arguments)

    def _remember(self, response: requests.Response, **_arguments: Any) -> None:
        self.last = response


class _TlsAdapter(HTTPAdapter):
    """Connections by our TLS profile (`worker.tls`)."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **keywords: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._context, **keywords)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing: requests would add authorities of its own to those of the context, which verifies."""


def connect(destination: HttpDestination, accept: str) -> Session:
    """Nothing is sent yet. Raises Retry when the token cannot be read, StartError for TLS files."""
    context = None
    if destination.url.startswith("https:"):
        files = (destination.tls_certificate, destination.tls_key, destination.tls_authority)
        context = client_context(*files)
    session = Session(context, accept)
    token = _token(destination)
    if token is not None:
        session.headers["Authorization"] = f"Bearer {token}"
    return session


def _token(destination: HttpDestination) -> str | None:
    """Read at every connection, so that a token that is renewed is taken up."""
    if destination.bearer_token_variable is not None:
        token = os.environ.get(destination.bearer_token_variable, "").strip()
        where = f"the environment variable {destination.bearer_token_variable}"
    elif destination.bearer_token_file is not None:
        where = str(destination.bearer_token_file)
        try:
            token = destination.bearer_token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            token = ""
    else:
        return None
    if not token or not token.isprintable() or not token.isascii():
        raise Retry("token-missing", f"{destination.name}: {where} holds no bearer token")
    return token


def no_answer(destination: HttpDestination, error: requests.RequestException) -> Retry:
    """Why there was no HTTP answer; the exception's own text would repeat the URL."""
    if isinstance(error, requests.exceptions.SSLError):
        return Retry("tls-failed", f"{destination.name}: the TLS handshake failed: are authority and host name right?")
    if isinstance(error, requests.ReadTimeout):
        return Retry("no-answer", "the peer closed the connection or did not answer in time")
    return Retry("peer-unavailable", f"{destination.name} does not answer at {destination.url}")


def raise_for_access(response: requests.Response) -> None:
    if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise Retry("not-authorised", f"the peer answered HTTP {shown(response)}: is the bearer token right?")


def shown(response: requests.Response) -> str:
    try:
        return f"{response.status_code} {HTTPStatus(response.status_code).phrase}"
    except ValueError:
        return str(response.status_code)
