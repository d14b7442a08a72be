"""GET /activity: answers and latency over a day, a week or a month."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter, HTTPException, Response

from worker.db.views.activity import find_activity
from worker.web import charts
from worker.web.dependencies import Reader, Site
from worker.web.pages.layout import render_page
from worker.web.templating import styles

_PERIODS = {  # the choices of the page: title, length and number of the spans
    "day": ("24 hours", timedelta(hours=1), 24),
    "week": ("7 days", timedelta(hours=6), 28),
    "month": ("30 days", timedelta(days=1), 30),
}


def activity_page(site: Site) -> APIRouter:
    """The page, for a token that reads."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/activity")
    def activity(caller: Reader, span: str = "week") -> Response:
        if span not in _PERIODS:
            raise HTTPException(422, f"span: must be one of {', '.join(_PERIODS)}")
        title, length, number = _PERIODS[span]
        with site.database.read() as session:
            period = find_activity(session, site.clock(), length, number)
        spans = period.spans
        titles = site.class_titles()
        answered = {name for counted in spans for name in counted.answers}
        names = [*[name for name in titles if name in answered], *sorted(answered - set(titles))]
        styled = styles(titles, site.no_lesion_labels())
        colours = {name: styled.get(name, "c-none") for name in names}
        top = charts.round_top(max(counted.answers.total() for counted in spans))
        slowest = charts.round_top(max((counted.slowest_seconds or 0.0) for counted in spans))
        return render_page(
            site,
            "activity.html",
            caller,
            spans=spans,
            whole=period.whole,
            totals={name: sum(counted.answers[name] for counted in spans) for name in names},
            total=sum(counted.answers.total() for counted in spans),
            title=title,
            chosen=span,
            choices={key: value[0] for key, value in _PERIODS.items()},
            names=names,
            titles=titles,
            styles=colours,
            top=top,
            slowest=slowest,
            bars=charts.stacked(
                list(colours.values()), [[counted.answers[name] for name in names] for counted in spans], top
            ),
            lines=charts.lines(
                ["median", "95th percentile"],
                ["l0", "l1"],
                [[counted.median_seconds for counted in spans], [counted.slowest_seconds for counted in spans]],
                slowest,
            ),
        )

    return routes
