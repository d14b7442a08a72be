"""Error answers as `application/problem+json` (RFC 9457), for every kind of fault; they hold no identifier."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from worker.db.engine import DatabaseError, is_invalid_value, is_unavailable
from worker.db.operating.deleting import StudyInUse
from worker.db.readings import ReadMeanwhile
from worker.decoding.answers import Busy
from worker.logs import fault_fields, get_log
from worker.web.limits.problem import HEADERS, PROBLEM, problem
from worker.web.templating import render


class Problem(BaseModel):
    """An error: RFC 9457."""

    status: int
    detail: str


# For the OpenAPI document: the errors that any operation may return.
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    number: {"description": HTTPStatus(number).phrase, "model": Problem} for number in (400, 401, 403, 422, 429, 503)
}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"description": "Not Found", "model": Problem}}
CONFLICT: dict[int | str, dict[str, Any]] = {409: {"description": "Conflict", "model": Problem}}


def install(app: FastAPI) -> None:
    """Answer the errors of every route with problems, and document them so."""
    document = app.openapi
    app.openapi = lambda: _with_problems(document())  # type: ignore[method-assign]
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(DatabaseError, _answer_database)
    app.add_exception_handler(Busy, _answer_busy)
    app.add_exception_handler(StudyInUse, _answer_conflict)
    app.add_exception_handler(ReadMeanwhile, _answer_conflict)
    app.add_exception_handler(ClientDisconnect, _note_disconnect)
    app.add_exception_handler(Exception, _answer_fault)


def _with_problems(document: dict[str, Any]) -> dict[str, Any]:
    """Correct the media type of error responses: FastAPI documents that of the successful response."""
    for operation in [operation for path in document["paths"].values() for operation in path.values()]:
        for status, response in operation["responses"].items():
            content = response.get("content", {})
            if int(status) >= 400 and len(content) == 1:
                response["content"] = {PROBLEM: next(iter(content.values()))}
    return document


def _answer(request: Request, status: int, detail: str, headers: dict[str, str]) -> Response:
    """A problem, or a page where a browser asks for HTML."""
    if "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/"):
        heading = HTTPStatus(status).phrase
        return HTMLResponse(
            render("problem.html", None, status=status, heading=heading, detail=detail), status, headers
        )
    return problem(status, detail, headers)


def _answer_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return _answer(request, error.status_code, str(error.detail), dict(error.headers or {}))


def _answer_invalid(request: Request, error: Exception) -> Response:
    """Name each invalid parameter and its fault, without the value."""
    if not isinstance(error, RequestValidationError):
        raise error
    faults = []
    for fault in error.errors():
        name = ".".join(str(key) for key in fault["loc"][1:]) or str(fault["loc"][0])
        faults.append(f"{name}: {'there is no such parameter' if fault['type'] == 'extra_forbidden' else fault['msg']}")
    return _answer(request, 422, "; ".join(faults), {})


def _answer_database(request: Request, error: Exception) -> Response:
    if not isinstance(error, DatabaseError) or not (is_unavailable(error) or is_invalid_value(error)):
        return _answer_fault(request, error)
    get_log().error("the web role's query failed", **fault_fields(error))
    if is_invalid_value(error):
        return _answer(request, 400, "the database cannot store such a value", {})
    return _answer(request, 503, "the database is unreachable", {"Retry-After": "5"})


def _answer_busy(request: Request, error: Exception) -> Response:
    return _answer(request, 503, "too many pictures are being made; try again later", {"Retry-After": "2"})


def _answer_conflict(request: Request, error: Exception) -> Response:
    if not isinstance(error, StudyInUse | ReadMeanwhile):
        raise error
    return _answer(request, 409, error.detail, {})


def _note_disconnect(request: Request, _error: Exception) -> Response:
    """The client disconnected during its request: no fault of ours, and nobody reads the answer."""
    get_log().info("the client disconnected during its request", method=request.method)
    return problem(400, "the request is incomplete")


def _answer_fault(request: Request, error: Exception) -> Response:
    """An unexpected fault. Its text may quote a patient, so neither the caller nor the log gets it."""
    get_log().error("the web role failed", **fault_fields(error))
    return _answer(request, 500, "internal fault of the worker; its log names the location", dict(HEADERS))
