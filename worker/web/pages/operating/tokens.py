"""GET /tokens: the tokens of the web interface, for operators: listed, made, revoked."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from worker.audit import events
from worker.db import tokens
from worker.db.tables import TokenRole
from worker.db.tokens import NotAllowed
from worker.web.dependencies import Operator, Site
from worker.web.guard import Caller, posted
from worker.web.pages.layout import render_page
from worker.web.pages.reading_form import fault_in_words
from worker.wording import counted

_SHOWN = 500  # the newest; tokens are never deleted
_LONGEST_DAYS = 3650


class _Wanted(BaseModel):
    """The fields of the form; `days` 0: for ever."""

    model_config = ConfigDict(str_strip_whitespace=True)

    name: str = Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")
    role: TokenRole
    days: int = Field(ge=0, le=_LONGEST_DAYS)


def tokens_page(site: Site) -> APIRouter:
    """The page; all of it needs a token that operates."""
    routes = APIRouter(include_in_schema=False)

    def page(caller: Caller, status: int = 200, **values: object) -> Response:
        with site.database.read() as session:
            known = tokens.list_tokens(session)
        shown = {"made": None, "fault": None, "fields": {}} | values
        return render_page(
            site, "tokens.html", caller, status, tokens=known[: -_SHOWN - 1 : -1], now=site.clock(),
            longest=_LONGEST_DAYS, guarded=site.settings.web.require_token, **shown,
        )  # fmt: skip

    @routes.get("/tokens")
    def list_tokens(caller: Operator) -> Response:
        return page(caller)

    @routes.post("/tokens")
    def add_token(caller: Operator, fields: Annotated[dict[str, str], Depends(posted)]) -> Response:
        """The answer shows the token, and nothing shows it again."""
        if not site.settings.web.require_token:  # whoever reaches the port would keep a key for later
            return page(caller, 409, fault="[web] require_token is false: `worker tokens add` makes tokens")
        try:
            wanted = _Wanted.model_validate(fields)
            now = site.clock()
            expires_at = now + timedelta(days=wanted.days) if wanted.days else None
            with site.database.write() as session:
                name, text = tokens.add_token(session, wanted.name, wanted.role, now, expires_at)
        except ValueError as error:
            return page(caller, 422, fault=f"Not made. {fault_in_words(error)}", fields=fields)
        except NotAllowed as error:
            return page(caller, 409, fault=f"Not made: {error.detail}", fields=fields)
        valid = counted(wanted.days, "day") if wanted.days else "for ever"
        site.record(events.token_changed(caller.name, name, f"made, role {wanted.role}, valid {valid}"))
        return page(caller, made={"name": name, "role": wanted.role.value, "text": text})

    @routes.post("/tokens/revoke")
    def revoke_token(caller: Operator, fields: Annotated[dict[str, str], Depends(posted)]) -> Response:
        with site.database.write() as session:
            name = tokens.revoke_token(session, fields.get("key", ""), site.clock())
        if name is None:
            return page(caller, 404, fault="There is no such token.")
        site.record(events.token_changed(caller.name, name, "revoked"))
        return RedirectResponse("/tokens", 303)

    return routes
