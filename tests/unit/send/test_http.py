"""Requests to a server: no redirect, a token that is read anew, and what its statuses mean."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests

from tests.testbed.dcmtk import free_port
from worker.errors import Retry, StartError
from worker.send import http
from worker.send.destinations.stow import StowDestination


class Handler(BaseHTTPRequestHandler):
    seen: list[tuple[str, str, str | None]]

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Host"], self.headers["Authorization"]))
        self.send_response(302)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None: ...


@pytest.fixture
def address() -> Iterator[str]:
    """A server that redirects every request."""
    Handler.seen = []
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_session_follows_no_redirect_and_knows_the_last_response(address: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    destination = StowDestination(name="pacs", url=address, bearer_token_file=token)
    for secret in ("first", "renewed"):
        token.write_text(f"{secret}\n")
        with http.connect(destination, "application/json") as session:
            response = session.request("GET", f"{address}/studies", headers={"Host": "127.0.0.1"})
            assert (response.status_code, session.last) == (302, response)
    host = address.removeprefix("http://")
    assert Handler.seen == [("/studies", host, "Bearer first"), ("/studies", host, "Bearer renewed")]


def test_nothing_of_the_environment_is_used(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with http.connect(StowDestination(name="pacs", url=address), "application/json") as session:
        assert session.request("GET", address).status_code == 302


@pytest.mark.parametrize("content", [None, "", "  \n", "two\nlines", "naïve"])
def test_a_token_that_cannot_be_sent_is_reported_by_its_source(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(Retry, match=r"pacs: .*token holds no bearer token"):
        http.connect(StowDestination(name="pacs", url="http://127.0.0.1", bearer_token_file=file), "text/plain")


def test_tls_files_that_are_missing_are_a_startup_error(tmp_path: Path) -> None:
    destination = StowDestination(name="pacs", url="https://127.0.0.1", tls_authority=tmp_path / "none.pem")
    with pytest.raises(StartError, match=r"none\.pem"):
        http.connect(destination, "text/plain")


@pytest.mark.parametrize(
    ("status", "line"), [(404, "404 Not Found"), (503, "503 Service Unavailable"), (299, "299"), (599, "599")]
)
def test_a_status_is_shown_with_its_phrase_where_it_has_one(status: int, line: str) -> None:
    response = requests.Response()
    response.status_code = status
    assert http.status_line(response) == line


def test_a_status_is_explained_where_it_is_known_what_to_check(address: str) -> None:
    with http.connect(StowDestination(name="pacs", url=address), "text/plain") as session:
        redirect = session.request("GET", address)
    assert http.status_explained(redirect) == "302 Found; configure the URL to which it redirects"
    response = requests.Response()
    for status, line in ((404, "404 Not Found; is the url right?"), (400, "400 Bad Request")):
        response.status_code = status
        assert http.status_explained(response) == line


def test_a_fault_of_the_server_is_temporary_and_one_of_the_request_is_not() -> None:
    assert {408, 429, 500, 502, 503, 504, 599} <= http.TEMPORARY
    assert not {200, 400, 401, 404, 409, 501, 505} & http.TEMPORARY


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (requests.exceptions.SSLError(ssl.SSLError(1, "secret")), "tls-failed", "the handshake failed"),
        (requests.ReadTimeout("secret"), "no-answer", "pacs sent no answer in 30 s"),
        (requests.ConnectTimeout("secret"), "peer-unavailable", "no answer in time"),
        (requests.ConnectionError("http://user:secret@h"), "peer-unavailable", "pacs does not answer at https://h"),
        (requests.ConnectionError(ConnectionResetError("secret")), "no-answer", "pacs closed the connection"),
    ],
)
def test_why_there_was_no_answer_has_nothing_of_the_exceptions_text(
    error: requests.RequestException, reason: str, words: str
) -> None:
    fault = http.unanswered(StowDestination(name="pacs", url="https://h"), error)
    assert fault.reason == reason
    assert words in fault.detail
    assert "secret" not in fault.detail


@pytest.mark.parametrize(
    ("url", "reason", "words"),
    [
        ("http://nowhere.invalid/fhir", "host-unresolved", "the host name 'nowhere.invalid' does not resolve"),
        ("http://127.0.0.1:1", "peer-unavailable", "connection refused; is it running"),
    ],
)
def test_a_real_request_to_nobody_has_its_reason(url: str, reason: str, words: str) -> None:
    destination = StowDestination(name="pacs", url=url)
    with http.connect(destination, "text/plain") as session, pytest.raises(requests.RequestException) as error:
        session.request("GET", url)
    fault = http.unanswered(destination, error.value)
    assert fault.reason == reason
    assert words in fault.detail


def test_https_to_a_port_without_tls_is_told(address: str) -> None:
    destination = StowDestination(name="pacs", url=address.replace("http:", "https:"))
    with http.connect(destination, "text/plain") as session, pytest.raises(requests.RequestException) as error:
        session.request("GET", destination.url)
    assert "the port does not speak TLS" in http.unanswered(destination, error.value).detail
