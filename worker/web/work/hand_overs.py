"""The studies that this web process hands over, which the page and the API begin and follow alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException

from worker.db.operating.deleting import StudyInUse
from worker.errors import StartError, WorkerError
from worker.web.dependencies import NO_SUCH_STUDY, Site
from worker.web.guard import Caller
from worker.web.work.background import Background, Work
from worker.wording import counted

if TYPE_CHECKING:
    from worker.send.hand_over import HandOver

_AT_ONCE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyHandOver(Work):
    """A study that is handed over to the node `to`; `sent` of `total` instances are sent.

    `reason` and `detail` say why it failed; then nothing is lost, and the same request completes it.
    """

    study_instance_uid: str
    to: str
    sent: int = 0
    total: int = 0


class HandOvers:
    """The hand-overs of this process."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._begun = Background[StudyHandOver]("hand-over", _AT_ONCE)
        self.newest = self._begun.newest

    def of_study(self, study_instance_uid: str) -> StudyHandOver | None:
        """The newest of a study; None where this process has begun none, or has forgotten it."""
        return next((item for item in self.newest() if item.study_instance_uid == study_instance_uid), None)

    def require(self, study_instance_uid: str, to: str, caller: Caller) -> None:
        """Raises HTTPException 404 or 409, and StudyInUse, where the study cannot be handed over now."""
        try:
            is_known = self._hand_over(caller).check(study_instance_uid, to)
        except StartError as fault:
            raise HTTPException(404, fault.detail) from None
        except StudyInUse:
            raise
        except WorkerError as fault:
            raise HTTPException(409, fault.detail) from None
        if not is_known:
            raise HTTPException(404, NO_SUCH_STUDY)

    def start(self, study_instance_uid: str, to: str, caller: Caller, *, with_reports: bool) -> bool:
        """Begin; False while as many run as may, or this study's does."""

        def run(begun: StudyHandOver) -> dict[str, Any]:
            return self._run(begun, caller, with_reports)

        new = StudyHandOver(study_instance_uid=study_instance_uid, to=to, by=caller.name, started_at=self._site.clock())
        return self._begun.start(new, run, lambda running: running.study_instance_uid == study_instance_uid)

    def _run(self, begun: StudyHandOver, caller: Caller, with_reports: bool) -> dict[str, Any]:
        done = self._hand_over(caller).run(
            begun.study_instance_uid,
            begun.to,
            with_reports=with_reports,
            steps=lambda sent, total: self._begun.change(begun.number, sent=sent, total=total),
        )
        if done is None:
            return {"state": "failed", "reason": "no-such-study", "detail": "there is no such study"}
        return {"state": "done", "detail": f"{counted(done.deleted.instances, 'image')} deleted here"}

    def _hand_over(self, caller: Caller) -> HandOver:
        from worker.send.hand_over import HandOver

        site = self._site
        return HandOver(site.settings, site.database, site.clock, site.record, caller.name, caller.address)
