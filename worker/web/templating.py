"""Templates and static files; all are in the package, nothing is fetched from another host."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from worker import __version__
from worker.web import charts
from worker.web.guard import Caller
from worker.wording import counted, written_date

_FILES = {
    "worker.css": "text/css",
    "worker.js": "text/javascript",
    "viewer.js": "text/javascript",
    "upload.js": "text/javascript",
    "htmx.min.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_PALETTE = 8  # number of class colours in worker.css
_GREY = 3  # of them, for a class that means that nothing is there


def render(template: str, caller: Caller | None, **values: Any) -> str:
    """A template as HTML. `caller` is None where the route authenticates nobody."""
    return _environment().get_template(template).render(caller=caller, **values)


def static_routes() -> APIRouter:
    """GET /static/…: no token needed, since nothing in it is secret; the address changes with the content."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in _FILES:
            raise HTTPException(404, "there is no such file")
        return Response(_content(name), media_type=_FILES[name], headers={"Cache-Control": "public, max-age=31536000"})

    return routes


def style_sheet() -> str:
    """The style sheet, for a file that is viewed without the worker."""
    return _content("worker.css").decode()


@cache
def _content(name: str) -> bytes:
    return resources.files("worker.web").joinpath("static", name).read_bytes()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("worker.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "day_time": lambda moment: f"{moment.astimezone():%Y-%m-%d %H:%M}",
        "percent": percent,
        "seconds": charts.seconds,
        "person": person,
        "date": written_date,
        "counted": counted,
        "hexadecimal": lambda status: f"0x{status:04X}",
    }
    environment.globals |= {
        "version": __version__,
        "static": lambda name: f"/static/{name}?{urlencode({'v': hashlib.sha256(_content(name)).hexdigest()[:12]})}",
        "time_zone": lambda: datetime.now().astimezone().tzname(),
    }
    return environment


def percent(probability: float) -> str:
    """A probability in per cent, never 0 or 100: no model is certain."""
    if probability > 0.999:
        return "> 99.9 %"
    return "< 0.1 %" if probability < 0.001 else f"{100 * probability:.1f} %"


def person(name: str) -> str:
    """A PN value as read aloud: family name, given names (PS3.5 6.2.1)."""
    family, *others = [component.strip() for component in name.partition("=")[0].split("^")]
    given = " ".join(component for component in others[:2] if component)
    return ", ".join(component for component in (family, given) if component)


def styles(names: Iterable[str], grey: Container[str] = ()) -> dict[str, str]:
    """The CSS class that colours each class of a model, by its position; those in `grey` have the grey class."""
    names = list(names)
    coloured = [place for place in range(_PALETTE) if place != _GREY or not any(name in grey for name in names)]
    places = iter(coloured * (len(names) // len(coloured) + 1))
    return {name: f"c{_GREY if name in grey else next(places)}" for name in names}
