"""GET and POST /sign-in, POST /sign-out: a browser session, opened with a token."""

from __future__ import annotations

from html import escape
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from worker.db.tables import TokenRole
from worker.web.guard import COOKIE, SIGN_IN, Caller, Denied, Guard, posted, require, same_origin

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sign in - brain-mri-worker</title>
<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/static/worker.css"></head>
<body><main><h1>brain-mri-worker</h1>
<p role="alert">{message}</p>
<form method="post" action="/sign-in">
<input type="hidden" name="next" value="{next}">
<label>Token <input type="password" name="token" autocomplete="current-password" required autofocus></label>
<button>Sign in</button></form>
<p>An operator makes a token with <code>worker tokens add --role read</code>.</p>
<p>Research use only. Not a medical device; not for diagnosis.</p></main></body></html>
"""


def sign_in_routes(session_hours: float) -> APIRouter:
    """The routes; they need no token."""
    routes = APIRouter(include_in_schema=False)

    @routes.get(SIGN_IN)
    def page(next: str = "/") -> HTMLResponse:
        return _page("", next)

    @routes.post(SIGN_IN)
    async def sign_in(request: Request) -> Response:
        fields = await posted(request)
        guard: Guard = request.app.state.guard
        target = fields.get("next", "/")
        try:
            if not same_origin(request):  # another site would open a session with a token of its own
                raise Denied(403, "this form is from another site; open the sign-in page of the worker")
            secret = await run_in_threadpool(guard.sign_in, request, fields.get("token", ""))
        except Denied as denied:
            return _page(denied.detail, target, denied.status)
        response = RedirectResponse(_local(target), status_code=303)
        response.set_cookie(
            COOKIE,
            secret,
            max_age=int(session_hours * 3600),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    @routes.post("/sign-out")
    async def sign_out(request: Request, caller: Annotated[Caller, Depends(require(TokenRole.READ))]) -> Response:
        guard: Guard = request.app.state.guard
        await run_in_threadpool(guard.sign_out, request, caller)
        response = RedirectResponse(SIGN_IN, status_code=303)
        response.delete_cookie(COOKIE)
        return response

    return routes


def _page(message: str, target: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(_PAGE.format(message=escape(message), next=escape(_local(target))), status)


def _local(target: str) -> str:
    """The target where it is a path of this site, else "/": a link to the form must not redirect to another site."""
    inside = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if inside else "/"
