"""GET /fetch: have a configured PACS send us a study, and what became of it."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, cast, get_args

from fastapi import APIRouter, Depends, Response
from fastapi.responses import RedirectResponse

from worker.audit import events
from worker.config.sections import PeerSection, Retrieval
from worker.errors import WorkerError
from worker.logs import fault_fields, get_log
from worker.web.dependencies import Operator, Site
from worker.web.guard import Caller, posted
from worker.web.pages.layout import render_page

_AT_ONCE = 4
_REMEMBERED = 50


@dataclass(frozen=True, slots=True)
class Fetch:
    """A request, since this process started; the images themselves are received as any others."""

    number: int
    peer: str
    key: str
    by: str
    how: Retrieval
    started_at: datetime
    state: str = "running"
    studies: tuple[str, ...] = ()
    completed: int = 0
    failed: int = 0
    detail: str | None = None


class Fetches:
    """The requests of this process, each in a thread of its own."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._known: deque[Fetch] = deque(maxlen=_REMEMBERED)
        self._last = 0

    def newest(self) -> list[Fetch]:
        with self._lock:
            return list(reversed(self._known))

    def start(self, peer: PeerSection, how: Retrieval, study: str, accession: str, caller: Caller) -> bool:
        """Begin; False while as many run as may."""
        with self._lock:
            if sum(fetch.state == "running" for fetch in self._known) >= _AT_ONCE:
                return False
            self._last += 1
            key, now = study or "accession number", self._site.clock()
            fetch = Fetch(self._last, peer.ae_title, key, caller.name, how, now)
            self._known.append(fetch)
        work = threading.Thread(
            target=self._run, args=(fetch, peer, study, accession, caller), name="fetch", daemon=True
        )
        work.start()
        return True

    def _change(self, number: int, **values: object) -> None:
        with self._lock:
            for place, fetch in enumerate(self._known):
                if fetch.number == number:
                    self._known[place] = replace(fetch, **values)  # type: ignore[arg-type]

    def _run(self, fetch: Fetch, peer: PeerSection, study: str, accession: str, caller: Caller) -> None:
        from worker.fetch.queries import find_studies
        from worker.fetch.retrieval import Fetched, fetch_study, storing

        site, ae_title = self._site, self._site.settings.worker.ae_title
        completed = failed = 0
        try:
            uids = find_studies(peer, ae_title, study_instance_uid=study, accession_number=accession)
            what = f"fetch from {peer.ae_title} by {fetch.how}"
            site.record(events.operated(caller.name, caller.address, what, uids))
            if not uids:
                self._change(fetch.number, state="failed", detail=f"{peer.ae_title} has no such study")
                return
            self._change(fetch.number, studies=tuple(uids))
            with storing(fetch.how, site.settings, site.database, site.clock, site.record) as store:
                for uid in uids:
                    before = (completed, failed)

                    def progress(counts: Fetched, before: tuple[int, int] = before) -> None:
                        now = {"completed": before[0] + counts.completed, "failed": before[1] + counts.failed}
                        self._change(fetch.number, **now)

                    counts = fetch_study(peer, ae_title, uid, store, progress)
                    completed, failed = completed + counts.completed, failed + counts.failed
                    self._change(fetch.number, completed=completed, failed=failed)
            detail = f"{failed} images were not taken, or not sent; the logs of both say why" if failed else None
            self._change(fetch.number, state="failed" if failed else "done", detail=detail)
        except WorkerError as fault:
            self._change(fetch.number, state="failed", detail=fault.detail)
        except ValueError as fault:
            self._change(fetch.number, state="failed", detail=str(fault))
        except Exception as error:  # a thread's boundary
            get_log().error("fetch failed", peer=peer.ae_title, **fault_fields(error))
            self._change(fetch.number, state="failed", detail="an internal fault; the log says where")


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
