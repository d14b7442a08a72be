"""GET /fetch: have a configured PACS send us a study, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, cast, get_args

from fastapi import APIRouter, Depends, Response
from fastapi.responses import RedirectResponse

from worker.audit import events
from worker.config.sections import PeerSection, Retrieval
from worker.web.dependencies import Operator, Site
from worker.web.guard import Caller, posted
from worker.web.pages.layout import render_page
from worker.web.work.background import Background, Work
from worker.wording import counted

_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch(Work):
    """A request; the images themselves are received as any others."""

    peer: str
    key: str
    how: Retrieval
    studies: tuple[str, ...] = ()
    completed: int = 0
    failed: int = 0


class Fetches:
    """The requests of this process."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._fetches = Background[Fetch]("fetch", _AT_ONCE)
        self.newest = self._fetches.newest

    def start(self, peer: PeerSection, how: Retrieval, study: str, accession: str, caller: Caller) -> bool:
        """Begin; False while as many run as may."""

        def run(fetch: Fetch) -> dict[str, Any]:
            return self._run(fetch, peer, study, accession, caller)

        key, now = study or "accession number", self._site.clock()
        return self._fetches.start(Fetch(peer=peer.ae_title, key=key, by=caller.name, how=how, started_at=now), run)

    def _run(self, fetch: Fetch, peer: PeerSection, study: str, accession: str, caller: Caller) -> dict[str, Any]:
        from worker.fetch.queries import find_studies
        from worker.fetch.retrieval import Fetched, fetch_study, storing

        site, ae_title = self._site, self._site.settings.worker.ae_title
        completed = failed = 0
        try:
            uids = find_studies(peer, ae_title, study_instance_uid=study, accession_number=accession)
        except ValueError as fault:
            return {"state": "failed", "detail": str(fault)}
        what = f"fetch from {peer.ae_title} by {fetch.how}"
        site.record(events.operated(caller.name, caller.address, what, uids))
        if not uids:
            return {"state": "failed", "detail": f"{peer.ae_title} has no such study"}
        self._fetches.change(fetch.number, studies=tuple(uids))
        with storing(fetch.how, site.settings, site.database, site.clock, site.record) as store:
            for uid in uids:
                before = (completed, failed)

                def progress(counts: Fetched, before: tuple[int, int] = before) -> None:
                    now = {"completed": before[0] + counts.completed, "failed": before[1] + counts.failed}
                    self._fetches.change(fetch.number, **now)

                counts = fetch_study(peer, ae_title, uid, store, progress)
                completed, failed = completed + counts.completed, failed + counts.failed
                self._fetches.change(fetch.number, completed=completed, failed=failed)
        detail = f"{counted(failed, 'image')} not taken, or not sent; the logs of both say why" if failed else None
        return {"state": "failed" if failed else "done", "detail": detail}


def fetch_page(site: Site) -> APIRouter:
    """The page; all of it needs a token that operates, and only a configured [[peer]] is asked."""
    routes = APIRouter(include_in_schema=False)
    fetches = Fetches(site)
    peers = {peer.ae_title: peer for peer in site.settings.peer}

    def page(caller: Caller, status: int = 200, fault: str | None = None) -> Response:
        return render_page(
            site, "fetch.html", caller, status, fetches=fetches.newest(), peers=list(peers.values()), fault=fault,
            ae_title=site.settings.worker.ae_title,
        )  # fmt: skip

    @routes.get("/fetch")
    def list_fetches(caller: Operator) -> Response:
        return page(caller)

    @routes.post("/fetch")
    def fetch(caller: Operator, fields: Annotated[dict[str, str], Depends(posted)]) -> Response:
        peer = peers.get(fields.get("peer", ""))
        how = fields.get("by", "")
        study, accession = fields.get("study", "").strip(), fields.get("accession", "").strip()
        if peer is None:
            return page(caller, 422, "There is no such [[peer]] in the configuration.")
        if how not in ("", *get_args(Retrieval)):
            return page(caller, 422, "Fetch by C-MOVE or by C-GET.")
        if bool(study) == bool(accession):
            return page(caller, 422, "Give a Study Instance UID or an accession number.")
        if len(study) > 64 or len(accession) > 16:
            return page(caller, 422, "A UID has 64 characters at most, an accession number 16.")
        if not fetches.start(peer, cast(Retrieval, how or peer.fetch_by), study, accession, caller):
            return page(caller, 503, f"{_AT_ONCE} studies are being fetched; try again later.")
        return RedirectResponse("/fetch", 303)

    return routes
