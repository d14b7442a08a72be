from __future__ import annotations

import httpx
import pytest

from tests.testbed.web_site import API
from worker.web.pages.api_reference import describe_type


def test_the_page_describes_every_operation_of_the_openapi_document(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    page = client.get("/api").text
    assert all(f"<code>{path}</code>" in page for path in document["paths"])
    assert f"{API}/series" in document["paths"]
    for name, schema in document["components"]["schemas"].items():
        assert (f'id="schema-{name}"' in page) == bool(schema.get("properties"))


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "#/components/schemas/Retried"}, "Retried"),
        ({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 9}, {"type": "null"}]}, "integer from 1 to 9 or null"),
        ({"enum": ["shadow", "retire"], "type": "string"}, "shadow, retire"),
        ({"type": "array", "items": {"type": "string", "maxLength": 64}}, "list of string at most 64 characters"),
        ({"type": "string", "format": "date-time"}, "date-time"),
        ({}, ""),
    ],
)
def test_a_schema_in_a_few_words(schema: dict[str, object], words: str) -> None:
    assert describe_type(schema) == words
