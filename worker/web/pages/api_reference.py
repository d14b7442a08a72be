"""GET /api: the REST interface as a page, generated from the OpenAPI document; it needs no script and no network."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from worker.web.dependencies import Reader
from worker.web.templating import render

_LIMITS = {"from": "minimum", "above": "exclusiveMinimum", "to": "maximum"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of an operation, in words; `location` is path or query."""

    name: str
    location: str
    type: str
    description: str


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a path."""

    method: str
    path: str
    description: str
    parameters: tuple[Parameter, ...]
    responses: str


@dataclass(frozen=True, slots=True)
class Schema:
    """An object that is returned: its fields and their types, in words."""

    description: str
    fields: dict[str, str]


def api_reference_page() -> APIRouter:
    """The page; it describes the application that it belongs to."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/api")
    def api_reference(request: Request, caller: Reader) -> HTMLResponse:
        document = request.app.openapi()
        return HTMLResponse(render("api.html", caller, groups=operations_of(document), schemas=schemas_of(document)))

    return routes


def operations_of(document: dict[str, Any]) -> dict[str, list[Operation]]:
    """The operations of an OpenAPI document, by tag."""
    groups: dict[str, list[Operation]] = defaultdict(list)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups[(operation.get("tags") or ["service"])[0]].append(
                Operation(
                    method,
                    path,
                    operation.get("description") or operation["summary"],
                    tuple(_parameter(parameter) for parameter in operation.get("parameters", ())),
                    _responses(operation["responses"]),
                )
            )
    return groups


def _parameter(parameter: dict[str, Any]) -> Parameter:
    location = parameter["in"] + ("" if parameter.get("required") else ", optional")
    return Parameter(parameter["name"], location, describe_type(parameter["schema"]), parameter.get("description", ""))


def _responses(responses: dict[str, Any]) -> str:
    texts = []
    for status, response in responses.items():
        content: dict[str, Any] = next(iter(response.get("content", {}).values()), {})
        texts.append(f"{status} {describe_type(content.get('schema', {})) or response['description']}")
    return "; ".join(texts)


def schemas_of(document: dict[str, Any]) -> dict[str, Schema]:
    """The objects with fields that an OpenAPI document defines, by name."""
    return {
        name: Schema(
            schema.get("description", ""), {key: describe_type(field) for key, field in schema["properties"].items()}
        )
        for name, schema in sorted(document["components"]["schemas"].items())
        if schema.get("properties")
    }


def describe_type(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(describe_type(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {describe_type(schema.get('items', {}))}"
    words = str(schema.get("format") or schema.get("type", ""))
    limits = [f"{word} {schema[key]}" for word, key in _LIMITS.items() if key in schema]
    limits += [f"at most {schema['maxLength']} characters"] if "maxLength" in schema else []
    return " ".join([words, *limits])
