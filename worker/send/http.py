"""HTTP for STOW-RS and FHIR: sessions with bearer token and TLS, and the statuses that mean the same for both."""

from __future__ import annotations

import os
import ssl
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from worker.errors import Retry
from worker.network import unreachable
from worker.send.destinations.base import ConnectionLost, HttpDestination
from worker.tls import client_context

# Temporary faults of the server or a proxy. A 500 may be due to the object itself; it is retried all the same.
TEMPORARY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, *range(500, 600)} - {
    HTTPStatus.NOT_IMPLEMENTED,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
}
_ADVICE: dict[int, str] = {
    HTTPStatus.NOT_FOUND: "is the url right?",
    HTTPStatus.METHOD_NOT_ALLOWED: "is the url right?",
    413: "the server or its proxy takes smaller requests only",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "is it a service of this kind?",
    HTTPStatus.TOO_MANY_REQUESTS: "the server limits our requests",
    HTTPStatus.BAD_GATEWAY: "a proxy does not reach the server",
    HTTPStatus.GATEWAY_TIMEOUT: "a proxy does not reach the server",
    HTTPStatus.SERVICE_UNAVAILABLE: "the server is overloaded or down for maintenance",
}


class Session(requests.Session):
    """Requests to one server: no proxy or password from the environment, no redirects.

    A redirected POST becomes a GET, whose 200 would be taken for success.
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
        # dicomweb-client's Host header lacks the port (RFC 9110 7.2); without it requests adds the correct header.
        (arguments.get("headers") or {}).pop("Host", None)
        return super().request(method, url, **arguments)

    def _remember(self, response: requests.Response, **_arguments: Any) -> None:
        self.last = response


class _TlsAdapter(HTTPAdapter):
    """Connections with our TLS profile (`worker.tls`)."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **keywords: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._context, **keywords)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Do nothing: the context verifies, and requests would add its own authorities to it."""


def connect(destination: HttpDestination, accept: str) -> Session:
    """Prepare a session; sends nothing. Raises Retry for an unreadable token, StartError for unusable TLS files."""
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
    """The bearer token, read for every connection, so that a renewed token is used. Raises Retry."""
    if destination.bearer_token_variable is not None:
        token = os.environ.get(destination.bearer_token_variable, "").strip()
        source = f"the environment variable {destination.bearer_token_variable}"
    elif destination.bearer_token_file is not None:
        source = str(destination.bearer_token_file)
        try:
            token = destination.bearer_token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            token = ""
    else:
        return None
    if not token or not token.isprintable() or not token.isascii():
        raise Retry("token-missing", f"{destination.name}: {source} holds no bearer token")
    return token


def unanswered(destination: HttpDestination, error: requests.RequestException) -> ConnectionLost:
    """The fault behind a request without an answer; the text of the exception itself would repeat the URL."""
    seconds = f"{destination.timeout_seconds:g} s"
    if isinstance(error, requests.ReadTimeout):
        return ConnectionLost("no-answer", f"{destination.name} sent no answer in {seconds}")
    fault = TimeoutError() if isinstance(error, requests.ConnectTimeout) else unreachable.cause(error)
    if isinstance(fault, ConnectionResetError):  # http.client's RemoteDisconnected too: it had the request
        return ConnectionLost("no-answer", f"{destination.name} closed the connection without an answer")
    if fault is None:
        return ConnectionLost("peer-unavailable", f"{destination.name} does not answer at {destination.url}")
    reason, sentence = unreachable.explain(fault, urlsplit(destination.url).hostname or "", destination.url)
    return ConnectionLost(reason, f"{destination.name} {sentence}")


def raise_for_access(response: requests.Response) -> None:
    """Raise Retry when the server rejects our credentials."""
    if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise Retry("not-authorised", f"the peer answered HTTP {status_line(response)}: is the bearer token right?")


def status_line(response: requests.Response) -> str:
    """Status code and reason phrase, e.g. `404 Not Found`."""
    try:
        return f"{response.status_code} {HTTPStatus(response.status_code).phrase}"
    except ValueError:
        return str(response.status_code)


def status_explained(response: requests.Response) -> str:
    """The status line, and after it what to check where that is known."""
    advice = "configure the URL to which it redirects" if response.is_redirect else _ADVICE.get(response.status_code)
    return f"{status_line(response)}; {advice}" if advice else status_line(response)
