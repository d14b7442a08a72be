"""What the OpenAPI document says is what the interface does: requests made from it, answers held against it."""

from __future__ import annotations

from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import ignored_auth

EXAMPLES = 6  # of each operation
SECONDS = 120  # for an answer, on the slowest machine


def test_every_operation_answers_as_documented(client: httpx.Client) -> None:
    """Status, media type and schema of each answer; what the schema allows is accepted, what it forbids refused.

    HYPOTHESIS_PROFILE=explore draws other examples.
    """
    schema = schemathesis.openapi.from_url(str(client.base_url.join("/openapi.json")), timeout=SECONDS)
    operations = [found.ok() for found in schema.include(path_regex="^/(api/|metrics)").get_all_operations()]
    assert len(operations) > 12
    for operation in operations:
        _ask(operation)


def _ask(operation: Any) -> None:
    @settings(max_examples=EXAMPLES, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def ask(case: schemathesis.Case) -> None:
        # Tokens: see the test below, and test_guard.
        case.call_and_validate(excluded_checks=[ignored_auth], timeout=SECONDS)

    ask()


def test_every_operation_wants_a_token(guarded: tuple[httpx.Client, Any]) -> None:
    client, _ = guarded
    paths = client.get("/openapi.json").json()["paths"]
    for path, methods in paths.items():
        for method in methods:
            if not path.startswith("/health"):
                answer = client.request(method, path.format_map(_Any()))
                assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json"), path


class _Any(dict[str, str]):
    """A value for every parameter of a path."""

    def __missing__(self, _name: str) -> str:
        return "1"
