"""GET /api: the REST interface as a page, read off the OpenAPI document; it needs no script and no network."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from worker.web.dependencies import Reader
from worker.web.templating import render


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of an operation, in words."""

    name: str
    place: str
    takes: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    description: str
    parameters: tuple[Parameter, ...]
    answers: str


@dataclass(frozen=True, slots=True)
class Shape:
    """An object that comes back: its fields and their types, in words."""

    description: str
    fields: dict[str, str]


def documentation_routes() -> APIRouter:
    """The page; it shows what the application that it belongs to offers."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/api")
    def documentation(request: Request, caller: Reader) -> HTMLResponse:
        document = request.app.openapi()
        shapes = {name: _shape(one) for name, one in sorted(document["components"]["schemas"].items())}
        return HTMLResponse(
            render(
                "api.html",
                caller,
                groups=_operations(document),
                shapes={name: one for name, one in shapes.items() if one.fields},
            )
        )

    return routes


def _operations(document: dict[str, Any]) -> dict[str, list[Operation]]:
    groups: dict[str, list[Operation]] = defaultdict(list)
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            groups[(one.get("tags") or ["service"])[0]].append(
                Operation(
                    method,
                    path,
                    one.get("description") or one["summary"],
                    tuple(_parameter(each) for each in one.get("parameters", ())),
                    _answers(one["responses"]),
                )
            )
    return groups


def _parameter(one: dict[str, Any]) -> Parameter:
    place = one["in"] + ("" if one.get("required") else ", optional")
    return Parameter(one["name"], place, _type(one["schema"]), one.get("description", ""))


def _answers(responses: dict[str, Any]) -> str:
    told = []
    for status, one in responses.items():
        content: dict[str, Any] = next(iter(one.get("content", {}).values()), {})
        told.append(f"{status} {_type(content.get('schema', {})) or one['description']}")
    return "; ".join(told)


def _shape(schema: dict[str, Any]) -> Shape:
    fields = {name: _type(one) for name, one in schema.get("properties", {}).items()}
    return Shape(schema.get("description", ""), fields)


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(str(one) for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    words = str(schema.get("format") or schema.get("type", ""))
    limits = [f"{key} {schema[name]}" for key, name in (("from", "minimum"), ("to", "maximum")) if name in schema]
    limits += [f"at most {schema['maxLength']} characters"] if "maxLength" in schema else []
    return " ".join([words, *limits])
