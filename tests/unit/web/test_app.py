"""The application as a whole: its OpenAPI document is what it does, and every route needs a token."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.testbed.waiting import patience
from tests.testbed.web_site import API, bearer, settings_of
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.web.app import create_app

# The worker of this test asks for no token, so a request without one is no mistake: see the test below, and test_guard.
# The examples are the same on every machine, for which the order of Python's sets must be the same too;
# `st run --max-examples 100 http://127.0.0.1:8080/openapi.json` draws others.
FUZZ = [
    "run", "--include-path-regex=^/(api/|metrics)", "--phases=fuzzing", "--max-examples=6",
    "--generation-deterministic", "--exclude-checks=ignored_auth,negative_data_rejection", "--no-color",
]  # fmt: skip


def test_every_operation_answers_as_documented(client: httpx.Client, tmp_path: Path) -> None:
    """Status, media type and schema of each answer; what the schema allows is accepted, what it forbids refused."""
    program = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    document = tmp_path / "openapi.json"  # read by us: schemathesis gives up reading it after ten seconds
    document.write_text(client.get("/openapi.json").raise_for_status().text)
    done = subprocess.run(
        [*program, *FUZZ, f"--request-timeout={patience(120)}", f"--url={client.base_url}", str(document)],
        cwd=tmp_path, env=os.environ | {"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    tested = re.search(r"Tested: (\d+)", done.stdout)
    assert tested is not None
    assert int(tested[1]) > 15


def test_every_operation_wants_a_token(guarded: tuple[httpx.Client, Any]) -> None:
    client, _ = guarded
    paths = client.get("/openapi.json").json()["paths"]
    for path, methods in paths.items():
        for method in methods:
            if not path.startswith("/health"):
                answer = client.request(method, path.format_map(_Any()))
                assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json"), path


def _operations(app: FastAPI) -> list[tuple[str, str]]:
    """(method, address) of every route, of pages and DICOMweb too, which the document leaves out."""

    def walk(routes: Any) -> Iterator[Any]:
        for route in routes:
            if candidates := getattr(route, "_effective_candidates", None):
                yield from walk(candidates)
            elif getattr(route, "methods", None):
                yield route

    app.openapi()  # brings the included routers
    addresses = [(method, route.path) for route in walk(app.routes) for method in sorted(route.methods - {"HEAD"})]
    return [(method, re.sub(r"{\w+(:\w+)?}", "1", path)) for method, path in addresses]


def test_every_route_wants_a_token_of_its_role(guarded: tuple[httpx.Client, Database], filled_file: Path) -> None:
    client, database = guarded
    app = create_app(settings_of(filled_file.parent, filled_file.parent), database)
    operations = _operations(app)
    assert len(operations) > 100
    opened = {path for method, path in operations if client.request(method, path).status_code != 401}
    assert opened == {
        "/health", "/health/live", "/health/ready", "/openapi.json", "/sign-in", "/static/1", "/ohif", "/ohif/1",
        "/ohif/app-config.js",
    }  # fmt: skip
    changes = [(method, path) for method, path in operations if method != "GET"]
    allowed = {}
    for role in (TokenRole.READ, TokenRole.ANNOTATE):
        token = bearer(database, role, role)
        answers = {path: client.request(method, path, headers=token).status_code for method, path in changes}
        allowed[role] = {path for path, status in answers.items() if status != 403}
    assert allowed[TokenRole.READ] == {"/sign-in", "/sign-out"}
    assert all("/readings" in path for path in allowed[TokenRole.ANNOTATE] - allowed[TokenRole.READ])


def test_head_is_answered_wherever_get_is(client: httpx.Client) -> None:
    for path in (
        "/",
        "/health",
        "/health/live",
        "/metrics",
        "/api/v1/series",
        "/dicom-web/studies",
        "/static/worker.css",
    ):
        head, get = client.head(path), client.get(path)
        assert head.status_code == get.status_code, path
        assert head.headers["content-type"] == get.headers["content-type"], path
        assert head.content == b""


@pytest.mark.parametrize("path", ["/", "/api/v1/series"])
def test_a_parameter_that_is_given_twice_is_refused(client: httpx.Client, path: str) -> None:
    assert client.get(f"{path}?label=glioma").status_code == 200
    assert client.get(f"{path}?label=glioma&label=notumor").status_code == 422


class _Any(dict[str, str]):
    """A value for every parameter of a path."""

    def __missing__(self, _name: str) -> str:
        return "1"


_VALUES = st.one_of(
    st.text(max_size=80), st.integers().map(str), st.floats().map(str), st.dates().map(str),
    st.sampled_from(["", "%", "../..", "classified", "glioma", "0-0", "9" * 17 + "-" + "9" * 18, "\x00", "1.2.3"]),
)  # fmt: skip


def test_no_request_makes_the_server_fail(client: httpx.Client) -> None:
    """Any values for the documented parameters: an answer that the document allows, never a 5xx."""
    operations = [
        (method, path, operation)
        for path, methods in client.get("/openapi.json").json()["paths"].items()
        for method, operation in methods.items()
        if path.startswith(API)
    ]
    assert len(operations) >= 13

    @settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def send(data: st.DataObject) -> None:
        method, path, operation = data.draw(st.sampled_from(operations))
        query = {}
        for parameter in operation.get("parameters", []):
            value = data.draw(_VALUES)
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", _quoted(value))
            elif data.draw(st.booleans()):
                query[parameter["name"]] = value
        answer = client.request(method, path, params=query)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
        assert str(answer.status_code) in {*operation["responses"], "307", "404", "405"}

    send()


def _quoted(value: str) -> str:
    return quote(value.encode("utf-8", "replace"), safe="")
